// Streams of rows: batches out, answers in, and going on where a stream broke off.
#include <algorithm>
#include <deque>
#include <functional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cpp/client.h"
#include "client/cpp/client_impl.h"
#include "client/cpp/convert.h"
#include "client/cpp/errors.h"
#include "client/cpp/grpc_status.h"
#include "client/cpp/keep_mode.h"
#include "client/cpp/stream_call.h"

namespace laplace::client {
namespace {

using Step = StreamCall::Step;

// One batch is computed while the next one travels.
constexpr size_t kMostInFlight = 2;

// After which a server under pressure ends an answer that its client has not taken.
constexpr absl::Duration kUntaken = absl::Seconds(2);

// What differs between the two kinds of work.
struct PredictWork {
  using Request = PredictRequest;
  using Answer = Prediction;
  static void Ask(const Request& request, v1::PredictStreamStart& start) {
    *start.mutable_predict() = OptionsToProto(request);
  }
  static bool Answers(const v1::PredictStreamResponse& response) { return response.has_predict(); }
  static absl::StatusOr<Answer> Read(const v1::PredictStreamResponse& response) {
    return FromProto(response.predict());
  }
  static int64_t Rows(const Answer& answer) { return answer.batch; }
};

struct ScoreWork {
  using Request = ScoreRequest;
  using Answer = Scores;
  static void Ask(const Request& request, v1::PredictStreamStart& start) {
    *start.mutable_score() = OptionsToProto(request);
  }
  static bool Answers(const v1::PredictStreamResponse& response) { return response.has_score(); }
  static absl::StatusOr<Answer> Read(const v1::PredictStreamResponse& response) {
    return FromProto(response.score());
  }
  static int64_t Rows(const Answer& answer) {
    return answer.ood_scores.empty() ? 0 : static_cast<int64_t>(answer.ood_scores[0].values.size());
  }
};

struct Server {
  v1::PredictionService::Stub& stub;
  const ClientOptions& options;
  const std::string& target;
};

template <typename Work>
class RowStream {
 public:
  using Sink = std::function<absl::Status(int64_t, typename Work::Answer)>;

  RowStream(Server server, typename Work::Request request, const RowSource& source,
            const Sink& sink, const StreamOptions& options)
      : server_(server),
        request_(std::move(request)),
        source_(source),
        sink_(sink),
        stop_(options.stop),
        posterior_id_(options.posterior_id),
        first_row_(options.first_row),
        next_row_(options.first_row) {}

  absl::Status Run() {
    for (int failures = 0;;) {
      if (unanswered_.empty()) {
        if (absl::Status status = Pull(); !status.ok()) return status;
        if (unanswered_.empty()) return absl::OkStatus();
      }
      const int64_t before = next_row_;
      const Outcome outcome = OneStream();
      if (next_row_ > before) failures = 0;
      if (outcome.status.ok()) continue;  // it was old
      if (!outcome.from_server) return outcome.status;
      const absl::optional<absl::Duration> wait =
          WaitBeforeRetry(server_.options.retry, outcome.status, ++failures);
      if (!wait || *wait > server_.options.predict_timeout) {
        return WithRow(outcome.status, failures);
      }
      if (!Sleep(*wait)) return Stopped();
    }
  }

 private:
  struct Batch {
    v1::PredictStreamRequest message;
    int64_t rows = 0;
  };

  // How a stream ended. Only what the server or the network said may be worth another stream.
  struct Outcome {
    absl::Status status;
    bool from_server = false;
  };

  // Takes the next batch from the source, if it has one.
  absl::Status Pull() {
    if (source_ended_) return absl::OkStatus();
    const absl::StatusOr<Array> rows = source_();
    if (!rows.ok()) return rows.status();
    if (rows->rows() == 0) {
      source_ended_ = true;
      return absl::OkStatus();
    }
    Batch batch;
    batch.rows = rows->rows();
    const absl::Status status = InputsToProto(*rows, *batch.message.mutable_inputs());
    if (!status.ok()) return status;
    unanswered_.push_back(std::move(batch));
    return absl::OkStatus();
  }

  v1::PredictStreamRequest StartMessage() const {
    v1::PredictStreamRequest message;
    v1::PredictStreamStart& start = *message.mutable_start();
    Work::Ask(request_, start);
    start.set_posterior_id(posterior_id_);
    start.set_first_row(next_row_);
    return message;
  }

  // Sends batches and takes answers until the source ends, the stream is old or breaks.
  Outcome OneStream() {
    const ClientOptions& options = server_.options;
    const absl::Time opened = absl::Now();
    const absl::Time deadline = opened + options.stream_timeout;
    const absl::Time last_write =
        deadline - std::min(options.stream_timeout / 2, 2 * options.predict_timeout);
    const auto limit = [&options] { return absl::Now() + options.predict_timeout; };

    StreamCall call(server_.stub, options, deadline, stop_);
    Step step = call.Open(limit());
    if (step == Step::kDone) step = call.Write(StartMessage(), limit());
    size_t sent = 0;  // of the unanswered batches, on this stream
    bool writing = step == Step::kDone;
    for (bool first = true;; first = false) {
      while (writing && sent < kMostInFlight) {
        const bool old = !(first && sent == 0) && absl::Now() >= last_write;
        if (!old && sent == unanswered_.size()) {
          if (absl::Status status = Pull(); !status.ok()) return {status};
        }
        if (old || sent == unanswered_.size()) {
          writing = false;
          step = call.WritesDone(limit());
        } else {
          step = call.Write(unanswered_[sent].message, limit());
          writing = step == Step::kDone;
          if (writing) ++sent;
        }
      }
      // A stream that the server has ended may still hold answers.
      if (sent == 0 || step == Step::kLate || step == Step::kStopped) break;
      const Step read = call.Read(limit());
      if (read != Step::kDone) {
        step = read;
        break;
      }
      if (absl::Status status = Deliver(call.response()); !status.ok()) return {status};
      --sent;
    }
    if (step == Step::kLate) return {Silent()};
    if (step == Step::kStopped) return {Stopped()};
    // A peer that ends its side without a status, as a proxy may, waits for the end of this one.
    if (writing) call.WritesDone(limit());
    const grpc::Status end = call.Finish(limit());
    // What was to be answered is; why the stream ended does not matter then.
    const bool complete = unanswered_.empty() && source_ended_;
    if (complete || step == Step::kDone) return {};
    if (!end.ok() && end.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED) {
      absl::Status status = FromGrpcStatus(end, server_.target, options.stream_timeout);
      // A server ends answers that have waited too long for their client, which was busy with its
      // source or sink. Another stream asks for them again.
      const bool not_taken = absl::IsResourceExhausted(status) && !RetryDelay(status) &&
                             absl::Now() - opened >= kUntaken;
      if (!not_taken) return {std::move(status), true};
    }
    return {absl::UnavailableError(absl::StrCat(
                "the server at ", server_.target, " ended the stream before its last answer",
                end.ok() ? "" : absl::StrCat(": ", end.error_message()))),
            true};
  }

  absl::Status Deliver(const v1::PredictStreamResponse& response) {
    const auto malformed = [](const std::string& problem) {
      return absl::InternalError(absl::StrCat("the server's answer is malformed: ", problem));
    };
    if (!Work::Answers(response)) return malformed("it answers another kind of request");
    absl::StatusOr<typename Work::Answer> answer = Work::Read(response);
    if (!answer.ok()) return answer.status();
    const int64_t rows = unanswered_.front().rows;
    if (response.first_row() != next_row_ || Work::Rows(*answer) != rows) {
      return malformed(absl::StrCat("expected an answer to ", rows, " rows from row ", next_row_,
                                    ", got one to ", Work::Rows(*answer), " from row ",
                                    response.first_row()));
    }
    if (!posterior_id_.empty() && answer->posterior_id != posterior_id_) {
      return malformed(absl::StrCat("posterior ", answer->posterior_id, " answered row ", next_row_,
                                    " in place of ", posterior_id_));
    }
    if (!answered_) {
      // Whatever stream comes next goes on in the same way.
      answered_ = true;
      request_.version = answer->version;
      posterior_id_ = answer->posterior_id;
      KeepMode(*answer, request_);
    }
    const int64_t row = next_row_;
    next_row_ += rows;
    unanswered_.pop_front();
    return sink_(row, *std::move(answer));
  }

  // False if it was told to stop.
  bool Sleep(absl::Duration wait) const {
    const absl::Time end = absl::Now() + wait;
    while (absl::Now() < end) {
      if (stop_ && stop_()) return false;
      absl::SleepFor(stop_ ? std::min(absl::Milliseconds(50), end - absl::Now()) : wait);
    }
    return true;
  }

  absl::Status Stopped() const {
    return absl::CancelledError(
        absl::StrCat("stopped; the first row without an answer is ", next_row_));
  }

  absl::Status Silent() const {
    const int64_t rows = unanswered_.empty() ? 1 : unanswered_.front().rows;
    return absl::DeadlineExceededError(absl::StrCat(
        "no answer from ", server_.target, " to rows ", next_row_, " to ", next_row_ + rows - 1,
        " within ", absl::FormatDuration(server_.options.predict_timeout)));
  }

  absl::Status WithRow(const absl::Status& status, int attempts) const {
    std::string message(status.message());
    if (absl::IsFailedPrecondition(status) && answered_) {
      absl::StrAppend(&message, "; the rows before ", next_row_, " were answered by posterior ",
                      posterior_id_);
    }
    const bool tried_again = WaitBeforeRetry(server_.options.retry, status, 1).has_value();
    if (tried_again && attempts > 1) {
      absl::StrAppend(&message, "; given up after ", attempts, " attempts");
    }
    if (next_row_ > first_row_) {
      absl::StrAppend(&message, "; the first row without an answer is ", next_row_);
    }
    return WithMessage(status, message);
  }

  const Server server_;
  typename Work::Request request_;
  const RowSource& source_;
  const Sink& sink_;
  const std::function<bool()> stop_;
  std::string posterior_id_;
  const int64_t first_row_;
  int64_t next_row_;  // the first one without an answer
  bool answered_ = false;
  bool source_ended_ = false;
  std::deque<Batch> unanswered_;  // at most kMostInFlight, from next_row_ on
};

template <typename Request>
absl::Status CheckRequest(const Request& request, const StreamOptions& options) {
  if (!request.inputs.shape.empty() || !request.inputs.bytes.empty()) {
    return absl::InvalidArgumentError(
        "inputs: expected none, because the rows of a stream come from its source");
  }
  if (options.first_row < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("first_row: expected at least 0, got ", options.first_row));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Client::PredictStream(const PredictRequest& request, const RowSource& source,
                                   const PredictionSink& sink, const StreamOptions& options) const {
  if (absl::Status status = CheckRequest(request, options); !status.ok()) return status;
  const Server server = {*impl_->predictions, impl_->options, impl_->target};
  return RowStream<PredictWork>(server, request, source, sink, options).Run();
}

absl::Status Client::ScoreStream(const ScoreRequest& request, const RowSource& source,
                                 const ScoresSink& sink, const StreamOptions& options) const {
  if (absl::Status status = CheckRequest(request, options); !status.ok()) return status;
  const Server server = {*impl_->predictions, impl_->options, impl_->target};
  return RowStream<ScoreWork>(server, request, source, sink, options).Run();
}

}  // namespace laplace::client
