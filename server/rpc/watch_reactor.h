// One WatchOperation stream: the present snapshot, then changes, the end of the stream after the
// final state.
//
// At most one write is in flight; what changes meanwhile is merged, so a slow client costs one
// snapshot of memory. A client that vanishes ends the stream through OnCancel. Owned by gRPC:
// deletes itself in OnDone, after it has unsubscribed.
#pragma once

#include <grpcpp/grpcpp.h>
#include <laplace/v1/operation.pb.h>

#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "server/serving/operations.h"

namespace laplaced {

class WatchReactor final : public grpc::ServerWriteReactor<laplace::v1::WatchOperationResponse> {
 public:
  // For the service method to return. `operations` must outlive the stream.
  static WatchReactor* Start(Operations& operations, const std::string& id);
  // Likewise, for a stream that ends with `status` at once.
  static WatchReactor* Refuse(Operations& operations, const absl::Status& status);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  explicit WatchReactor(Operations& operations) : operations_(operations) {}

  // At once, before gRPC knows the reactor.
  void EndWith(const absl::Status& status);
  void OnChange(const OperationSnapshot& snapshot);
  // Starts the next write if there is something to write. REQUIRES: mutex_ held, no write in
  // flight.
  void WriteNext();
  // Finish must come outside the mutex, because OnDone may then delete the mutex at once. True if
  // the caller must call Finish. REQUIRES: mutex_ held.
  bool TakeFinish();

  Operations& operations_;
  uint64_t subscription_ = 0;  // written before gRPC knows the reactor

  std::mutex mutex_;
  absl::optional<OperationSnapshot> pending_;  // newest snapshot that is not on its way yet
  laplace::v1::WatchOperationResponse in_flight_;
  bool writing_ = false;
  bool last_written_ = false;  // the snapshot on its way or sent is the final one
  bool broken_ = false;        // the client is gone
  bool finished_ = false;      // somebody calls Finish or has done so
};

}  // namespace laplaced
