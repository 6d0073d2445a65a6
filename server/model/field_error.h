// Errors that say which request field they are about.
//
// The message reads "<field>: <what was wrong, expected and got>"; the field also travels as a
// payload, so that the gRPC layer can fill google.rpc.BadRequest without parsing text. Thread-safe
// (free functions on values).
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"

namespace laplaced {

inline constexpr char kFieldPayloadUrl[] = "laplaced/field";

// INVALID_ARGUMENT about request field `field` (a path such as "inputs.shape").
inline absl::Status FieldError(absl::string_view field, absl::string_view message) {
  absl::Status status = absl::InvalidArgumentError(absl::StrCat(field, ": ", message));
  status.SetPayload(kFieldPayloadUrl, absl::Cord(field));
  return status;
}

// The field of a status made by FieldError; empty if there is none.
inline std::string FieldOf(const absl::Status& status) {
  absl::optional<absl::Cord> field = status.GetPayload(kFieldPayloadUrl);
  return field ? std::string(*field) : std::string();
}

}  // namespace laplaced
