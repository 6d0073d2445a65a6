#include "server/rpc/unary_job.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/rpc/status_mapping.h"
#include "server/rpc/trace_context.h"
#include "server/serving/retry_after.h"

namespace laplaced {
namespace {

using std::chrono::steady_clock;
using std::chrono::system_clock;

// Deletes itself in OnDone, the last call that gRPC makes. Interceptors see its call.
class QueueReactor final : public grpc::ServerUnaryReactor {
 public:
  explicit QueueReactor(std::shared_ptr<ComputeContext> context) : context_(std::move(context)) {}

  void OnCancel() override { context_->cancelled.store(true, std::memory_order_relaxed); }
  void OnDone() override { delete this; }

 private:
  const std::shared_ptr<ComputeContext> context_;
};

}  // namespace

grpc::ServerUnaryReactor* RunOnQueue(ComputeQueue& queue, grpc::CallbackServerContext* call,
                                     const char* method, UnaryWork work) {
  std::shared_ptr<ComputeContext> context = MakeComputeContext(*call);
  const absl::Status alive = context->Check();
  if (!alive.ok()) return FinishNow(call, method, alive);

  auto* reactor = new QueueReactor(context);
  ComputeQueue::Job job;
  job.context = context;
  job.run = [reactor, method, context = context.get(),
             work = std::move(work)](double queue_seconds) {
    const absl::Status status = RunGuarded([&] { return work(*context, queue_seconds); });
    reactor->Finish(ToGrpcStatus(status, method));
  };
  job.drop = [reactor, method](const absl::Status& status) {
    reactor->Finish(ToGrpcStatus(status, method));
  };
  // Once submitted, the reactor belongs to the job and may be gone at any moment after this
  // function has returned it.
  const absl::Status submitted = SubmitOrRefuse(queue, std::move(job));
  if (!submitted.ok()) reactor->Finish(ToGrpcStatus(submitted, method));
  return reactor;
}

JobReactor::JobReactor(CallLedger& ledger, const CallMetrics::Series& series,
                       grpc::CallbackServerContext* call,
                       const google::protobuf::MessageLite& request)
    : context_(MakeComputeContext(*call)),
      call_(call->c_call()),
      request_(request),
      entry_(ledger, series) {
  entry_.Received();
  entry_.Read(call->client_metadata(), call->peer());
  call->AddInitialMetadata(kRequestIdHeader, entry_.request_id());
}

void JobReactor::End(const grpc::Status& status, const google::protobuf::MessageLite& answer) {
  entry_.set_code(status.error_code());
  if (status.ok()) {
    // gRPC keeps the request, the answer and its form on the wire until the client has that.
    const size_t held = request_.ByteSizeLong() + 2 * answer.ByteSizeLong();
    entry_.Sending(call_, static_cast<int64_t>(held));
  }
  Finish(status);
}

grpc::ServerUnaryReactor* FinishNow(grpc::CallbackServerContext* call, const char* method,
                                    const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status, method));
  return reactor;
}

absl::Status RunGuarded(const std::function<absl::Status()>& step) {
  try {
    return step();
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("unexpected exception: ", error.what()));
  }
}

std::shared_ptr<ComputeContext> MakeComputeContext(const grpc::CallbackServerContext& call) {
  auto context = std::make_shared<ComputeContext>();
  const system_clock::time_point deadline = call.deadline();
  // A call without deadline carries the largest time there is; beyond a year makes no difference
  // and cannot overflow.
  const auto left = deadline - system_clock::now();
  if (left < std::chrono::hours(24 * 365)) {
    context->deadline =
        steady_clock::now() + std::chrono::duration_cast<steady_clock::duration>(left);
  }
  return context;
}

absl::Status SubmitOrRefuse(ComputeQueue& queue, ComputeQueue::Job job) {
  absl::Status status = queue.Submit(std::move(job));
  if (!absl::IsResourceExhausted(status)) return status;
  constexpr double kShortestSeconds = 0.01;
  const double wait = static_cast<double>(queue.waiting()) * queue.mean_job_seconds();
  return WithRetryAfter(std::move(status), std::max(wait, kShortestSeconds));
}

}  // namespace laplaced
