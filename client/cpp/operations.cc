// Fits, updates, calibrations, Newton steps and operations: starting, following through dropped
// connections, cancelling.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cpp/client.h"
#include "client/cpp/client_impl.h"
#include "client/cpp/convert.h"
#include "client/cpp/grpc_status.h"

namespace laplace::client {
namespace {

// A server that drops watch after watch while nothing moves is given up on.
bool Moved(const Operation& before, const Operation& after) {
  return before.state != after.state || before.phase != after.phase || before.done != after.done ||
         before.fraction != after.fraction;
}

// Watches what was started to its end; cancels it if `progress` says so.
absl::StatusOr<Operation> WatchToItsEnd(const Client& client,
                                        const absl::StatusOr<Operation>& started,
                                        const OperationProgress& progress) {
  if (!started.ok()) return started.status();
  bool cancel_sent = false;
  absl::Status cancel_status;
  const absl::StatusOr<Operation> last =
      client.WatchOperation(started->id, [&](const Operation& operation) {
        const bool go_on = !progress || progress(operation);
        if (!go_on && !cancel_sent && !operation.finished()) {
          cancel_sent = true;
          cancel_status = client.CancelOperation(operation.id).status();
        }
        return cancel_status.ok();
      });
  if (!cancel_status.ok()) return cancel_status;
  return last;
}

// Likewise, for the id of the posterior that it made.
absl::StatusOr<std::string> FollowToItsEnd(const Client& client,
                                           const absl::StatusOr<Operation>& started,
                                           const OperationProgress& progress) {
  const absl::StatusOr<Operation> last = WatchToItsEnd(client, started, progress);
  if (!last.ok()) return last.status();
  return OperationResult(*last);
}

}  // namespace

absl::StatusOr<Operation> Client::StartFit(const FitRequest& request) const {
  auto response = impl_->Call(*impl_->posteriors, &v1::PosteriorService::Stub::FitPosterior,
                              ToProto(request), impl_->options.load_timeout, /*idempotent=*/false);
  if (!response.ok()) return response.status();
  return FromProto(response->operation());
}

absl::StatusOr<std::string> Client::Fit(const FitRequest& request,
                                        const OperationProgress& progress) const {
  return FollowToItsEnd(*this, StartFit(request), progress);
}

absl::StatusOr<Operation> Client::StartUpdate(const UpdateRequest& request) const {
  auto response = impl_->Call(*impl_->posteriors, &v1::PosteriorService::Stub::UpdatePosterior,
                              ToProto(request), impl_->options.load_timeout, /*idempotent=*/false);
  if (!response.ok()) return response.status();
  return FromProto(response->operation());
}

absl::StatusOr<std::string> Client::Update(const UpdateRequest& request,
                                           const OperationProgress& progress) const {
  return FollowToItsEnd(*this, StartUpdate(request), progress);
}

absl::StatusOr<Operation> Client::StartCalibrate(const CalibrateRequest& request) const {
  auto response = impl_->Call(*impl_->posteriors, &v1::PosteriorService::Stub::CalibrateOod,
                              ToProto(request), impl_->options.load_timeout, /*idempotent=*/false);
  if (!response.ok()) return response.status();
  return FromProto(response->operation());
}

absl::StatusOr<std::string> Client::Calibrate(const CalibrateRequest& request,
                                              const OperationProgress& progress) const {
  return FollowToItsEnd(*this, StartCalibrate(request), progress);
}

absl::StatusOr<Operation> Client::StartNewtonStep(const NewtonRequest& request) const {
  auto response = impl_->Call(*impl_->posteriors, &v1::PosteriorService::Stub::NewtonStep,
                              ToProto(request), impl_->options.load_timeout, /*idempotent=*/false);
  if (!response.ok()) return response.status();
  return FromProto(response->operation());
}

absl::StatusOr<Operation> Client::NewtonStep(const NewtonRequest& request,
                                             const OperationProgress& progress) const {
  absl::StatusOr<Operation> last = WatchToItsEnd(*this, StartNewtonStep(request), progress);
  if (!last.ok()) return last;
  if (absl::Status failed = OperationResult(*last).status(); !failed.ok()) return failed;
  return last;
}

absl::StatusOr<Operation> Client::WatchOperation(const std::string& id,
                                                 const OperationProgress& progress) const {
  const absl::Time end = absl::Now() + impl_->options.operation_timeout;
  v1::WatchOperationRequest request;
  request.set_id(id);
  Operation operation;
  for (int failures = 0;;) {
    grpc::ClientContext context;
    const absl::Time start = absl::Now();
    const absl::Time deadline = std::min(end, start + impl_->options.watch_timeout);
    context.set_deadline(absl::ToChronoTime(deadline));
    AddToken(impl_->options, context);
    const auto stream = impl_->operations->WatchOperation(&context, request);
    v1::WatchOperationResponse response;
    while (stream->Read(&response)) {
      const Operation before = std::exchange(operation, FromProto(response.operation()));
      if (Moved(before, operation)) failures = 0;
      if (progress && !progress(operation)) {
        context.TryCancel();
        stream->Finish();
        return operation;
      }
    }
    const grpc::Status outcome = stream->Finish();
    if (operation.finished()) return operation;
    if (absl::Now() >= end) {
      return absl::DeadlineExceededError(
          absl::StrCat("operation ", id, " still runs after ",
                       absl::FormatDuration(impl_->options.operation_timeout)));
    }
    // The stream's own deadline is routine; anything else must be worth another look.
    if (absl::Now() >= deadline) continue;
    if (absl::Now() - start > impl_->options.retry.max_backoff) failures = 0;
    absl::Status status =
        outcome.ok() ? absl::UnavailableError(absl::StrCat("the watch of operation ", id,
                                                           " ended before the operation did"))
                     : FromGrpcStatus(outcome, impl_->target, impl_->options.watch_timeout);
    const auto wait = WaitBeforeRetry(impl_->options.retry, status, ++failures);
    if (!wait || absl::Now() + *wait >= end) return status;
    absl::SleepFor(*wait);
  }
}

absl::StatusOr<Operation> Client::GetOperation(const std::string& id) const {
  v1::GetOperationRequest request;
  request.set_id(id);
  auto response = impl_->Call(*impl_->operations, &v1::OperationService::Stub::GetOperation,
                              request, impl_->options.timeout);
  if (!response.ok()) return response.status();
  return FromProto(response->operation());
}

absl::StatusOr<Operation> Client::CancelOperation(const std::string& id) const {
  v1::CancelOperationRequest request;
  request.set_id(id);
  auto response = impl_->Call(*impl_->operations, &v1::OperationService::Stub::CancelOperation,
                              request, impl_->options.timeout);
  if (!response.ok()) return response.status();
  return FromProto(response->operation());
}

absl::StatusOr<std::vector<Operation>> Client::ListOperations() const {
  auto response = impl_->Call(*impl_->operations, &v1::OperationService::Stub::ListOperations,
                              v1::ListOperationsRequest(), impl_->options.timeout);
  if (!response.ok()) return response.status();
  std::vector<Operation> operations;
  for (const v1::Operation& operation : response->operations()) {
    operations.push_back(FromProto(operation));
  }
  return operations;
}

absl::StatusOr<std::string> OperationResult(const Operation& operation) {
  switch (operation.state) {
    case OperationState::kSucceeded:
      return operation.posterior_id;
    case OperationState::kCancelled:
      return absl::CancelledError(absl::StrCat(operation.description, " was cancelled"));
    case OperationState::kFailed: {
      const bool named = operation.error_code != absl::StatusCode::kOk;
      return absl::Status(
          named ? operation.error_code : absl::StatusCode::kUnknown,
          absl::StrCat(operation.description, " failed: ", operation.error_message));
    }
    default:
      return absl::FailedPreconditionError(absl::StrCat(operation.description, " has not ended"));
  }
}

}  // namespace laplace::client
