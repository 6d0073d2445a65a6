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

// Returns the error of a Status or StatusOr expression from the enclosing function, or goes on.
#define LAPLACED_RETURN_IF_ERROR(expression)                                                   \
  do {                                                                                         \
    if (auto laplaced_status_ = (expression); !laplaced_status_.ok()) return laplaced_status_; \
  } while (false)

#define LAPLACED_CONCAT_(a, b) a##b
#define LAPLACED_CONCAT(a, b) LAPLACED_CONCAT_(a, b)
#define LAPLACED_ASSIGN_OR_RETURN_(result, declaration, expression) \
  auto result = (expression);                                       \
  if (!result.ok()) return result.status();                         \
  declaration = *std::move(result)

// declaration = value of a StatusOr expression; returns its error instead if it has one.
#define LAPLACED_ASSIGN_OR_RETURN(declaration, expression) \
  LAPLACED_ASSIGN_OR_RETURN_(LAPLACED_CONCAT(laplaced_result_, __LINE__), declaration, expression)
