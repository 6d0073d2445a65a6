// What callers send to find a call again: a request id, and the W3C trace context.
//
// Free functions on values; thread-safe.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace laplaced {

inline constexpr char kRequestIdHeader[] = "x-request-id";
inline constexpr char kTraceParentHeader[] = "traceparent";

// A request id that is fit for logs: 1 to 128 letters, digits and any of "-_.:/+=@".
bool IsRequestId(absl::string_view text);

// 32 hexadecimal digits of chance.
std::string NewRequestId();

// The trace id (32 lower-case hexadecimal digits) of a `traceparent` header by the W3C
// recommendation Trace Context, section 3.2; empty if it is not one. Later versions than 00 may
// carry more behind the flags.
std::string TraceIdOf(absl::string_view traceparent);

}  // namespace laplaced
