#include "server/model/torch_status.h"

#include <c10/util/Exception.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace laplaced {
namespace {

// TorchScript puts a traceback of the model's source in front; the cause stands in the last line
// that is not empty.
std::string Summary(absl::string_view text) {
  std::string last;
  const bool traceback = absl::StrContains(text, "Traceback of TorchScript");
  size_t begin = 0;
  while (begin < text.size()) {
    size_t end = text.find('\n', begin);
    if (end == absl::string_view::npos) end = text.size();
    const std::string line(text.substr(begin, end - begin));
    if (line.find_first_not_of(" \t\r") != std::string::npos) {
      last = line;
      if (!traceback) break;
    }
    begin = end + 1;
  }
  constexpr size_t kLimit = 500;
  return last.size() > kLimit ? last.substr(0, kLimit) + "..." : last;
}

absl::Status FromText(absl::string_view what, absl::string_view text) {
  const std::string message = absl::StrCat(what, ": ", Summary(text));
  if (absl::StrContains(text, "DefaultCPUAllocator") || absl::StrContains(text, "out of memory")) {
    return absl::ResourceExhaustedError(message);
  }
  return absl::FailedPreconditionError(message);
}

}  // namespace

absl::Status CurrentTorchException(absl::string_view what) {
  try {
    throw;
  } catch (const c10::Error& error) {
    return FromText(what, error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat(what, ": out of memory"));
  } catch (const std::exception& error) {
    return FromText(what, error.what());
  } catch (...) {
    return absl::InternalError(absl::StrCat(what, ": unknown exception"));
  }
}

}  // namespace laplaced
