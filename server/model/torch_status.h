// The one place where LibTorch's exceptions become statuses.
//
// CatchTorch(what, body) runs `body`, which returns Status or StatusOr<T>, and turns anything it
// throws into a status whose message is "<what>: <first line of LibTorch's message>":
// RESOURCE_EXHAUSTED when memory ran out, FAILED_PRECONDITION otherwise (on validated input a
// failure inside LibTorch means that this checkpoint cannot do what was asked of it).
#pragma once

#include <exception>
#include <new>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/linalg/status_macros.h"  // IWYU pragma: export

namespace laplaced {

// Must be called from inside a catch block.
absl::Status CurrentTorchException(absl::string_view what);

template <typename Body>
auto CatchTorch(absl::string_view what, Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (...) {
    return CurrentTorchException(what);
  }
}

}  // namespace laplaced
