// From the outcome of a gRPC call to the absl::Status that callers of the client see. Internal to
// the client library.
//
// Code and message are the server's; each detail of `grpc-status-details-bin` becomes a payload
// under its type URL. Two outcomes that gRPC itself words for experts are said in terms of the
// call: an address that does not answer, and a deadline that passed on this side. A call that ended
// without any status is UNAVAILABLE. Free function on values;
// thread-safe.
#pragma once

#include <grpcpp/support/status.h>

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace laplace::client {

// `target` is the server's address, `timeout` what the call was given in all.
absl::Status FromGrpcStatus(const grpc::Status& status, const std::string& target,
                            absl::Duration timeout);

}  // namespace laplace::client
