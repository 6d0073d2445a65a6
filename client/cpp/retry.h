// Decides whether a failed call is tried again and when. Internal to the client library.
//
// Only what cannot have had an effect, or may have it twice, is repeated: the caller says so per
// call. Free functions; thread-safe. They block the calling thread while they wait, never beyond
// the deadline.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "client/cpp/options.h"

namespace laplace::client {

// How long to wait before attempt number `failures` + 1 (the first attempt is number 1), jitter
// included. None if `status` is not worth another attempt or the attempts are used up.
absl::optional<absl::Duration> WaitBeforeRetry(const RetryPolicy& policy,
                                               const absl::Status& status, int failures);

struct CallSpec {
  std::string target;
  absl::Duration timeout;  // all attempts together
  bool idempotent = true;
};

// Runs `attempt` with a fresh context until it succeeds, fails for good, or time is up. If the next
// attempt would start after the deadline, the error at hand is returned at once.
absl::Status CallWithRetry(const RetryPolicy& policy, const CallSpec& spec,
                           const std::function<grpc::Status(grpc::ClientContext&)>& attempt);

}  // namespace laplace::client
