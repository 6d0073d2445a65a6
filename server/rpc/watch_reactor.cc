#include "server/rpc/watch_reactor.h"

#include "server/rpc/record_codec.h"
#include "server/rpc/request_checks.h"
#include "server/rpc/status_mapping.h"

namespace laplaced {
namespace {

constexpr char kWatch[] = "OperationService.WatchOperation";

const grpc::Status& ClientGone() {
  static const auto* status =
      new grpc::Status(grpc::StatusCode::CANCELLED, "the client cancelled the call");
  return *status;
}

}  // namespace

WatchReactor* WatchReactor::Start(Operations& operations, const std::string& id) {
  auto* reactor = new WatchReactor(operations);
  const absl::Status valid = CheckId("id", id, "an operation");
  absl::StatusOr<uint64_t> subscription =
      valid.ok() ? operations.Subscribe(
                       id, [reactor](const OperationSnapshot& s) { reactor->OnChange(s); })
                 : valid;
  if (subscription.ok()) {
    reactor->subscription_ = *subscription;
  } else {
    reactor->EndWith(subscription.status());
  }
  return reactor;
}

WatchReactor* WatchReactor::Refuse(Operations& operations, const absl::Status& status) {
  auto* reactor = new WatchReactor(operations);
  reactor->EndWith(status);
  return reactor;
}

void WatchReactor::EndWith(const absl::Status& status) {
  {
    // Or OnCancel finishes it a second time, which gRPC answers with abort().
    std::lock_guard<std::mutex> lock(mutex_);
    finished_ = true;
  }
  Finish(ToGrpcStatus(status, kWatch));
}

void WatchReactor::OnChange(const OperationSnapshot& snapshot) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (finished_ || broken_) return;
  pending_ = snapshot;
  if (!writing_) WriteNext();
}

void WatchReactor::WriteNext() {
  if (!pending_) return;
  in_flight_.Clear();
  FillOperation(*pending_, in_flight_.mutable_operation());
  last_written_ = pending_->record.state != OperationState::kRunning;
  pending_.reset();
  writing_ = true;
  StartWrite(&in_flight_);
}

bool WatchReactor::TakeFinish() {
  if (finished_) return false;
  finished_ = true;
  return true;
}

void WatchReactor::OnWriteDone(bool ok) {
  bool finish = false;
  bool gone = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    writing_ = false;
    gone = !ok || broken_;
    if (gone || last_written_) {
      finish = TakeFinish();
    } else {
      WriteNext();
    }
  }
  if (finish) Finish(gone ? ClientGone() : grpc::Status::OK);
}

void WatchReactor::OnCancel() {
  bool finish = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    broken_ = true;
    // A write in flight comes back through OnWriteDone, which then finishes.
    if (!writing_) finish = TakeFinish();
  }
  if (finish) Finish(ClientGone());
}

void WatchReactor::OnDone() {
  // Waits for an OnChange in progress; none comes after it.
  if (subscription_ != 0) operations_.Unsubscribe(subscription_);
  delete this;
}

}  // namespace laplaced
