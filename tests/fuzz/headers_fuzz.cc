// Headers that a caller writes and the log shows: a request's id, and the trace it belongs to.
#include <algorithm>

#include "absl/strings/ascii.h"
#include "server/rpc/trace_context.h"
#include "tests/fuzz/heap_bound.h"
#include "tests/fuzz/target.h"

namespace laplaced::fuzz {
namespace {

constexpr size_t kMaxBytes = 256;

void Run(absl::string_view input) {
  const HeapBound bound(input.size(), 16, 4 << 10);
  const std::string trace = TraceIdOf(input);
  const auto is_digit = [](char c) { return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f'); };
  Require(
      trace.empty() || (trace.size() == 32 && std::all_of(trace.begin(), trace.end(), is_digit)),
      "a trace id that is not one");
  if (!IsRequestId(input)) return;
  Require(!input.empty() && input.size() <= 128, "a request id of another size");
  Require(std::all_of(input.begin(), input.end(), absl::ascii_isgraph), "a request id with blanks");
}

std::vector<std::string> Seeds() {
  return {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
          "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", "request-1:a/b+c=@_."};
}

LAPLACED_FUZZ_TARGET(headers, kMaxBytes, Run, Seeds);

}  // namespace
}  // namespace laplaced::fuzz
