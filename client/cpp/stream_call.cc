#include "client/cpp/stream_call.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "client/cpp/channel.h"

namespace laplace::client {
namespace {

// Between two questions whether to stop.
constexpr absl::Duration kPoll = absl::Milliseconds(50);

}  // namespace

StreamCall::StreamCall(v1::PredictionService::Stub& stub, const ClientOptions& options,
                       absl::Time deadline, std::function<bool()> stop)
    : stop_(std::move(stop)) {
  context_.set_deadline(absl::ToChronoTime(deadline));
  AddToken(options, context_);
  stream_ = stub.PrepareAsyncPredictStream(&context_, &queue_);
}

StreamCall::~StreamCall() {
  context_.TryCancel();
  // Whatever is pending ends now; until then it points into this object.
  queue_.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
  }
}

StreamCall::Step StreamCall::Await(Lane& lane, absl::Time limit) {
  while (lane.pending) {
    if (stop_ && stop_()) return Step::kStopped;
    const absl::Time wake = stop_ ? std::min(limit, absl::Now() + kPoll) : limit;
    void* tag = nullptr;
    bool ok = false;
    switch (queue_.AsyncNext(&tag, &ok, absl::ToChronoTime(wake))) {
      case grpc::CompletionQueue::GOT_EVENT:
        static_cast<Lane*>(tag)->pending = false;
        static_cast<Lane*>(tag)->ok = ok;
        break;
      case grpc::CompletionQueue::TIMEOUT:
        if (absl::Now() >= limit) return Step::kLate;
        break;
      case grpc::CompletionQueue::SHUTDOWN:
        return Step::kEnded;
    }
  }
  return lane.ok ? Step::kDone : Step::kEnded;
}

StreamCall::Step StreamCall::Open(absl::Time limit) {
  opened_.pending = true;
  stream_->StartCall(&opened_);
  return Await(opened_, limit);
}

StreamCall::Step StreamCall::Write(const v1::PredictStreamRequest& request, absl::Time limit) {
  if (const Step before = Await(written_, limit); before != Step::kDone) return before;
  written_.pending = true;
  stream_->Write(request, &written_);
  return Step::kDone;
}

StreamCall::Step StreamCall::WritesDone(absl::Time limit) {
  if (const Step before = Await(written_, limit); before != Step::kDone) return before;
  written_.pending = true;
  stream_->WritesDone(&written_);
  return Step::kDone;
}

StreamCall::Step StreamCall::Read(absl::Time limit) {
  read_.pending = true;
  stream_->Read(&response_, &read_);
  return Await(read_, limit);
}

grpc::Status StreamCall::Finish(absl::Time limit) {
  finished_.pending = true;
  stream_->Finish(&status_, &finished_);
  if (Await(finished_, limit) == Step::kDone) return status_;
  return grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "the server does not end the stream");
}

}  // namespace laplace::client
