// Unary calls whose work runs on a ComputeQueue, off gRPC's own threads.
//
// gRPC keeps a call's request, response and context alive until the reactor's OnDone, which comes
// only after Finish. The job calls Finish exactly once, as the last thing it does, whether it ran,
// failed or was dropped; so the work may use request and response although the client may be long
// gone. A cancelled call only sets ComputeContext::cancelled: a waiting job is then dropped when
// its turn comes, a running one stops at its next check. Thread-safe.
#pragma once

#include <google/protobuf/message_lite.h>
#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "server/rpc/call_ledger.h"
#include "server/serving/compute_queue.h"

namespace laplaced {

// Fills the response; an error discards it. Runs once at most, on the queue's thread.
using UnaryWork = std::function<absl::Status(const ComputeContext& context, double queue_seconds)>;

// `method` ("PredictionService.Predict") is for the log and must be a literal. Refuses at once if
// the deadline has passed, or if the queue is full, then with a time to retry after.
grpc::ServerUnaryReactor* RunOnQueue(ComputeQueue& queue, grpc::CallbackServerContext* call,
                                     const char* method, UnaryWork work);

// A call whose work runs elsewhere, and which no interceptor sees (call_observer.h): it enters
// itself in the ledger, and sends its request id in the initial metadata. Whoever does the work
// ends it; a client that cancels only asks that to stop. Deletes itself in OnDone, the last call
// that gRPC makes.
class JobReactor final : public grpc::ServerUnaryReactor {
 public:
  JobReactor(CallLedger& ledger, const CallMetrics::Series& series,
             grpc::CallbackServerContext* call, const google::protobuf::MessageLite& request);

  const std::shared_ptr<ComputeContext>& context() const { return context_; }

  // Once, and the reactor may be gone when it returns. In place of Finish. `answer` is the call's
  // response.
  void End(const grpc::Status& status, const google::protobuf::MessageLite& answer);

  void OnCancel() override { context_->cancelled.store(true, std::memory_order_relaxed); }
  void OnDone() override { delete this; }
  // Both are over at once, so gRPC need not wake another thread for them, which would cost more
  // than everything else that the server does for a small request. Not promised by gRPC's API: a
  // version that knows it no longer takes the long way.
  bool InternalInlineable() override { return true; }

 private:
  const std::shared_ptr<ComputeContext> context_;
  grpc_call* const call_;
  const google::protobuf::MessageLite& request_;
  CallEntry entry_;
};

// Answers without any work.
grpc::ServerUnaryReactor* FinishNow(grpc::CallbackServerContext* call, const char* method,
                                    const absl::Status& status);

// Runs `step`; an exception that comes out of it is an INTERNAL error.
absl::Status RunGuarded(const std::function<absl::Status()>& step);

// A context with the call's deadline.
std::shared_ptr<ComputeContext> MakeComputeContext(const grpc::CallbackServerContext& call);

// Submits; a refusal for lack of room says when to try again.
absl::Status SubmitOrRefuse(ComputeQueue& queue, ComputeQueue::Job job);

}  // namespace laplaced
