// The only place where an absl::Status becomes a grpc::Status.
//
// INVALID_ARGUMENT with a field (field_error.h) gets a google.rpc.BadRequest, a status from
// WithRetryAfter (retry_after.h) gets a google.rpc.RetryInfo; both travel as google.rpc.Status in
// `grpc-status-details-bin`. UNKNOWN never leaves the server, and the text of an INTERNAL error
// stays in the log: the client gets a number to ask for. Long texts are cut, because a trailer
// beyond 8 KiB would turn into another error at the client; paths are ClientText. Thread-safe.
#pragma once

#include <grpcpp/support/status.h>

#include <string>

#include "absl/status/status.h"

namespace laplaced {

// `method` ("PredictionService.Predict") is for the log.
grpc::Status ToGrpcStatus(const absl::Status& status, const std::string& method);

// Gives an INVALID_ARGUMENT that names no field the field that it is about; leaves others as they
// are.
absl::Status WithField(absl::Status status, const std::string& field);

// Says `field` instead of the field that an INVALID_ARGUMENT names, in text and details; leaves
// others as they are.
absl::Status RenameField(const absl::Status& status, const std::string& field);

// `error_code` of an Operation: UNKNOWN and numbers that are no code become INTERNAL.
int ToOperationErrorCode(int absl_code);

}  // namespace laplaced
