// One PredictStream: a start, then batches of rows, each a job of its own on the compute queue and
// answered before the next is computed.
//
// Model version and posterior are pinned by the start. Messages come and answers go on gRPC's
// threads. At most three things are under way at once: one batch that is computed or whose answer
// is written, the message after it, and nothing else; so a client that sends fast or reads slowly
// costs two messages and one answer. Between the batches the queue serves whoever else waits. What
// is wrong with a message is said when its turn comes, after the answers before it, and ends the
// stream. Owned by gRPC: deletes itself in OnDone, which comes after Finish, which comes only when
// no job can touch the reactor any more.
#pragma once

#include <grpcpp/grpcpp.h>
#include <laplace/v1/prediction.pb.h>

#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "absl/types/variant.h"
#include "server/rpc/prediction_work.h"

namespace laplaced {

class PredictStreamReactor final
    : public grpc::ServerBidiReactor<laplace::v1::PredictStreamRequest,
                                     laplace::v1::PredictStreamResponse> {
 public:
  // For the service method to return. What `parts` refers to must outlive the stream.
  static PredictStreamReactor* Start(const PredictionParts& parts,
                                     grpc::CallbackServerContext* call);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  PredictStreamReactor(const PredictionParts& parts, grpc::CallbackServerContext* call);

  // Begins what can begin now, and ends the stream if nothing is left to do. Releases the lock
  // first, because Finish may be the reactor's end.
  void Proceed(std::unique_lock<std::mutex> lock);
  // The status to finish with, or none while there is something to wait for. This and the next
  // three REQUIRE: mutex_ held.
  absl::optional<absl::Status> Advance();
  absl::Status ReadStart();
  template <typename Request, typename Options>
  absl::Status ReadWork(const char* path, const Request& request, absl::StatusOr<Options> options);
  absl::Status SubmitBatch();

  // A batch of so many rows has been computed or dropped.
  template <typename Options, typename Answer>
  void OnComputed(int64_t rows, const absl::StatusOr<Answer>& answer, const BatchTiming& timing);

  // Says which batch an error is about, and where in the stream its field is.
  absl::Status InBatch(const absl::Status& status) const;

  const PredictionParts parts_;
  const std::shared_ptr<ComputeContext> context_;

  std::mutex mutex_;
  laplace::v1::PredictStreamRequest next_;  // being read, or read and not looked at
  bool arrived_ = false;                    // next_ holds a message
  bool half_closed_ = false;                // none will come any more
  bool busy_ = false;  // a batch is computed or its answer written; what follows is theirs
  bool finished_ = false;
  absl::optional<absl::Status> failure_;

  std::string client_;
  Priority priority_ = Priority::kBulk;
  std::shared_ptr<const ServedModel> model_;  // null before the start
  absl::variant<PredictOptions, ScoreOptions> options_;
  std::string options_path_;                   // "start.predict."
  laplace::v1::PredictStreamRequest current_;  // what is computed; its inputs are used in place
  laplace::v1::PredictStreamResponse answer_;
  int64_t row_ = 0;      // first row without an answer
  int64_t batches_ = 0;  // answered
};

}  // namespace laplaced
