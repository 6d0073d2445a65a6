#include "client/cpp/retry.h"

#include <algorithm>
#include <cmath>

#include "absl/random/random.h"
#include "absl/time/clock.h"
#include "client/cpp/errors.h"
#include "client/cpp/grpc_status.h"

namespace laplace::client {

absl::optional<absl::Duration> WaitBeforeRetry(const RetryPolicy& policy,
                                               const absl::Status& status, int failures) {
  if (failures >= policy.max_attempts) return absl::nullopt;
  const absl::optional<absl::Duration> asked = RetryDelay(status);
  // Without a hint RESOURCE_EXHAUSTED means a limit that waiting does not change, such as the
  // message size.
  const bool worth_it = absl::IsUnavailable(status) || (absl::IsResourceExhausted(status) && asked);
  if (!worth_it) return absl::nullopt;
  absl::BitGen random;
  const absl::Duration backoff = std::min(
      policy.initial_backoff * std::pow(policy.multiplier, failures - 1), policy.max_backoff);
  const absl::Duration wait = backoff * absl::Uniform(random, 0.5, 1.0);
  // Clients that were refused together should not come back together, and none may come back early.
  return asked ? *asked + wait : wait;
}

absl::Status CallWithRetry(const RetryPolicy& policy, const CallSpec& spec,
                           const std::function<grpc::Status(grpc::ClientContext&)>& attempt) {
  const absl::Time deadline = absl::Now() + spec.timeout;
  for (int failures = 1;; ++failures) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(deadline));
    const absl::Status status = FromGrpcStatus(attempt(context), spec.target, spec.timeout);
    if (status.ok() || !spec.idempotent) return status;
    const absl::optional<absl::Duration> wait = WaitBeforeRetry(policy, status, failures);
    if (!wait || absl::Now() + *wait >= deadline) return status;
    absl::SleepFor(*wait);
  }
}

}  // namespace laplace::client
