// Passing on errors without an if for each.
#pragma once

#include <utility>

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
