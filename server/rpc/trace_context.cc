#include "server/rpc/trace_context.h"

#include <algorithm>
#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"

namespace laplaced {
namespace {

bool IsLowerHex(absl::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool AllZero(absl::string_view text) {
  return text.find_first_not_of('0') == absl::string_view::npos;
}

}  // namespace

bool IsRequestId(absl::string_view text) {
  constexpr size_t kLongest = 128;
  constexpr absl::string_view kOthers = "-_.:/+=@";
  return !text.empty() && text.size() <= kLongest &&
         std::all_of(text.begin(), text.end(), [&](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
                  kOthers.find(c) != absl::string_view::npos;
         });
}

std::string NewRequestId() {
  thread_local std::mt19937_64 generator = [] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }();
  return absl::StrFormat("%016x%016x", generator(), generator());
}

std::string TraceIdOf(absl::string_view traceparent) {
  // 00-<32 digits trace id>-<16 digits parent id>-<2 digits flags>
  constexpr size_t kLength = 55, kTraceAt = 3, kTraceLength = 32, kParentAt = 36,
                   kParentLength = 16, kFlagsAt = 53;
  if (traceparent.size() < kLength) return "";
  const absl::string_view version = traceparent.substr(0, 2);
  const absl::string_view trace = traceparent.substr(kTraceAt, kTraceLength);
  const absl::string_view parent = traceparent.substr(kParentAt, kParentLength);
  const bool dashes = traceparent[kTraceAt - 1] == '-' && traceparent[kParentAt - 1] == '-' &&
                      traceparent[kFlagsAt - 1] == '-';
  if (!dashes || !IsLowerHex(version) || version == "ff" || !IsLowerHex(trace) || AllZero(trace) ||
      !IsLowerHex(parent) || AllZero(parent) || !IsLowerHex(traceparent.substr(kFlagsAt, 2))) {
    return "";
  }
  const bool more = traceparent.size() > kLength;
  if (more && (version == "00" || traceparent[kLength] != '-')) return "";
  return std::string(trace);
}

}  // namespace laplaced
