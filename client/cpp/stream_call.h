// One PredictStream call in which every step has a time limit. Internal to the client library.
//
// gRPC's blocking streams wait as long as the call's deadline; a server that falls silent would
// hold them for minutes. This one runs on a completion queue of its own. It belongs to one thread,
// which waits inside the methods; at most one message is being written while another one is read,
// so that neither side can wait for the other.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/support/async_stream.h>

#include <functional>
#include <memory>

#include "absl/time/time.h"
#include "client/cpp/options.h"
#include "laplace/v1/prediction.grpc.pb.h"

namespace laplace::client {

class StreamCall {
 public:
  enum class Step {
    kDone,
    kEnded,    // the call is over; Finish says why
    kLate,     // the limit passed
    kStopped,  // `stop` said so
  };

  // `deadline` is that of the whole call; `stop`, if there is one, is asked several times a second.
  StreamCall(v1::PredictionService::Stub& stub, const ClientOptions& options, absl::Time deadline,
             std::function<bool()> stop);
  // Cancels a call that has not ended.
  ~StreamCall();

  StreamCall(const StreamCall&) = delete;
  StreamCall& operator=(const StreamCall&) = delete;

  Step Open(absl::Time limit);
  // Waits until the message before this one is on its way, and returns while this one still may not
  // be.
  Step Write(const v1::PredictStreamRequest& request, absl::Time limit);
  // Says that no more will be written.
  Step WritesDone(absl::Time limit);
  // Reads into response().
  Step Read(absl::Time limit);
  const v1::PredictStreamResponse& response() const { return response_; }
  // How the call ended; DEADLINE_EXCEEDED if it does not. Once, after everything else.
  grpc::Status Finish(absl::Time limit);

 private:
  // One kind of work that the queue reports about.
  struct Lane {
    bool pending = false;
    bool ok = true;
  };

  // Waits until the work of a lane is done.
  Step Await(Lane& lane, absl::Time limit);

  // What gRPC may still write to while the queue is emptied.
  v1::PredictStreamResponse response_;
  grpc::Status status_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  const std::function<bool()> stop_;
  Lane opened_, written_, read_, finished_;
  std::unique_ptr<
      grpc::ClientAsyncReaderWriter<v1::PredictStreamRequest, v1::PredictStreamResponse>>
      stream_;
};

}  // namespace laplace::client
