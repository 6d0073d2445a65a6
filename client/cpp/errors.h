// What a failed call says beyond its code and message.
//
// Every absl::Status that the client returns for a refused call carries the server's code and
// message (UNAVAILABLE also says which address), and the server's google.rpc details as payloads
// under their type URLs. The functions here read the two that matter to a caller. Free functions on
// values; thread-safe.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"

namespace laplace::client {

// Payload URLs: serialized google.rpc.BadRequest and google.rpc.RetryInfo.
inline constexpr char kBadRequestUrl[] = "type.googleapis.com/google.rpc.BadRequest";
inline constexpr char kRetryInfoUrl[] = "type.googleapis.com/google.rpc.RetryInfo";

// One field of the request and what is wrong with it.
struct FieldViolation {
  std::string field;  // a path such as "inputs.shape"
  std::string description;
};

// Empty if the server named no field.
std::vector<FieldViolation> FieldViolations(const absl::Status& status);

// How long the server asked to wait before the next attempt.
absl::optional<absl::Duration> RetryDelay(const absl::Status& status);

// The same error, details included, with another message.
absl::Status WithMessage(const absl::Status& status, absl::string_view message);

}  // namespace laplace::client
