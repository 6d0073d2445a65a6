#include "server/rpc/predict_stream_reactor.h"

#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/model/field_error.h"
#include "server/rpc/request_checks.h"
#include "server/rpc/request_codec.h"
#include "server/rpc/status_mapping.h"
#include "server/rpc/tensor_codec.h"
#include "server/rpc/unary_job.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;

constexpr char kStream[] = "PredictionService.PredictStream";

constexpr char kPredictPath[] = "start.predict.";
constexpr char kScorePath[] = "start.score.";

absl::Status ClientGone() { return absl::CancelledError("the client cancelled the call"); }

absl::Status UnderPath(const std::string& path, const absl::Status& status) {
  const std::string field = FieldOf(status);
  return field.empty() ? status : RenameField(status, absl::StrCat(path, field));
}

// What the two kinds of requests in a start have in common.
template <typename Request>
absl::Status CheckStartRequest(const Request& request) {
  if (request.has_inputs()) {
    return FieldError("inputs",
                      "expected nothing in the start of a stream, whose rows follow it in messages "
                      "of their own; got a tensor");
  }
  return CheckModel("model", request.model(), request.version());
}

// Rows can then be counted on without overflow.
absl::Status CheckFirstRow(int64_t first_row) {
  constexpr int64_t kLargest = std::numeric_limits<int64_t>::max() / 2;
  if (first_row >= 0 && first_row <= kLargest) return absl::OkStatus();
  return FieldError("start.first_row",
                    absl::StrCat("expected a number from 0 to ", kLargest, ", got ", first_row));
}

absl::Status CheckPinned(const ServedModel& model, const std::string& wanted) {
  const std::string active = model.posterior_id();
  if (wanted.empty() || wanted == active) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("start.posterior_id: expected answers of posterior '", wanted, "', but ",
                   active.empty() ? "none" : absl::StrCat("'", active, "'"), " is active for ",
                   model.info().name, "/", model.info().version,
                   "; activate the one, or start over with the other"));
}

// The mode that the server chose for the first batch is the stream's.
void KeepMode(const VarianceReport& used, PredictOptions& options) {
  if (options.variance_mode != VarianceMode::kAuto || used.mode == VarianceMode::kAuto) return;
  options.variance_mode = used.mode;
  options.top_classes = used.top_classes;
  options.samples = used.samples;
}

void KeepMode(const VarianceReport& used, ScoreOptions& options) {
  if (options.variance_mode != VarianceMode::kAuto || used.mode == VarianceMode::kAuto) return;
  options.variance_mode = used.mode;
  options.samples = used.samples;
}

v1::PredictResponse* AnswerOf(const PredictOptions&, v1::PredictStreamResponse& message) {
  return message.mutable_predict();
}
v1::ScoreResponse* AnswerOf(const ScoreOptions&, v1::PredictStreamResponse& message) {
  return message.mutable_score();
}

}  // namespace

PredictStreamReactor* PredictStreamReactor::Start(const PredictionParts& parts,
                                                  grpc::CallbackServerContext* call) {
  auto* reactor = new PredictStreamReactor(parts, call);
  absl::StatusOr<Caller> caller = parts.guard.Admit(*call, Role::kPredict);
  if (!caller.ok()) {
    reactor->finished_ = true;
    reactor->Finish(ToGrpcStatus(caller.status(), kStream));
    return reactor;
  }
  reactor->client_ = std::move(caller->client);
  reactor->StartRead(&reactor->next_);
  return reactor;
}

PredictStreamReactor::PredictStreamReactor(const PredictionParts& parts,
                                           grpc::CallbackServerContext* call)
    : parts_(parts), context_(MakeComputeContext(*call)) {}

void PredictStreamReactor::OnReadDone(bool ok) {
  std::unique_lock<std::mutex> lock(mutex_);
  (ok ? arrived_ : half_closed_) = true;
  Proceed(std::move(lock));
}

void PredictStreamReactor::OnWriteDone(bool ok) {
  std::unique_lock<std::mutex> lock(mutex_);
  busy_ = false;
  if (!ok && !failure_) failure_ = ClientGone();
  Proceed(std::move(lock));
}

void PredictStreamReactor::OnCancel() {
  context_->cancelled.store(true, std::memory_order_relaxed);
  std::unique_lock<std::mutex> lock(mutex_);
  if (!failure_) failure_ = ClientGone();
  Proceed(std::move(lock));
}

void PredictStreamReactor::OnDone() { delete this; }

void PredictStreamReactor::Proceed(std::unique_lock<std::mutex> lock) {
  const absl::optional<absl::Status> end = Advance();
  if (!end) return;
  finished_ = true;
  lock.unlock();
  Finish(ToGrpcStatus(*end, kStream));
}

absl::optional<absl::Status> PredictStreamReactor::Advance() {
  if (busy_ || finished_) return absl::nullopt;
  if (failure_) return failure_;
  const absl::Status alive = context_->Check();
  if (!alive.ok()) return alive;
  if (!arrived_) {
    if (!half_closed_) return absl::nullopt;
    if (model_) return absl::OkStatus();
    return FieldError("start", "expected in the first message of the stream, got an empty stream");
  }
  arrived_ = false;
  current_.Swap(&next_);
  const absl::Status status = model_ ? SubmitBatch() : ReadStart();
  if (!status.ok()) return status;
  StartRead(&next_);
  return absl::nullopt;
}

absl::Status PredictStreamReactor::ReadStart() {
  if (current_.part_case() != v1::PredictStreamRequest::kStart) {
    return FieldError(
        "start",
        absl::StrCat(
            "expected in the first message of the stream, got ",
            current_.part_case() == v1::PredictStreamRequest::kInputs ? "inputs" : "an empty one"));
  }
  const v1::PredictStreamStart& start = current_.start();
  absl::Status status = CheckFirstRow(start.first_row());
  if (status.ok() && !start.posterior_id().empty()) {
    status = CheckId("start.posterior_id", start.posterior_id(), "a posterior");
  }
  if (!status.ok()) return status;
  if (start.has_predict()) {
    status = ReadWork(kPredictPath, start.predict(), ToPredictOptions(start.predict()));
  } else if (start.has_score()) {
    status = ReadWork(kScorePath, start.score(), ToScoreOptions(start.score()));
  } else {
    status = FieldError("start.work", "expected predict or score, got neither");
  }
  if (status.ok()) status = CheckPinned(*model_, start.posterior_id());
  row_ = start.first_row();
  return status;
}

template <typename Request, typename Options>
absl::Status PredictStreamReactor::ReadWork(const char* path, const Request& request,
                                            absl::StatusOr<Options> options) {
  absl::Status status = CheckStartRequest(request);
  if (status.ok()) status = options.status();
  if (!status.ok()) return UnderPath(path, status);
  const auto priority = ToPriority(request.priority(), Priority::kBulk);
  if (!priority.ok()) return UnderPath(path, priority.status());
  auto model = parts_.host.PinToAnswer(request.model(), request.version());
  if (!model.ok()) return model.status();
  priority_ = *priority;
  model_ = *std::move(model);
  options_ = *std::move(options);
  options_path_ = path;
  return absl::OkStatus();
}

absl::Status PredictStreamReactor::SubmitBatch() {
  if (current_.part_case() != v1::PredictStreamRequest::kInputs) {
    const std::string after = absl::StrCat("after ", batches_, " batch(es)");
    if (!current_.has_start()) {
      return FieldError("part", absl::StrCat("expected inputs, got an empty message ", after));
    }
    return FieldError("start",
                      absl::StrCat("expected only in the first message, got another one ", after));
  }
  const absl::StatusOr<ArrayView> inputs = ViewTensor(current_.inputs(), "inputs");
  if (!inputs.ok()) return InBatch(inputs.status());
  const absl::Status valid = absl::visit(
      [&](const auto& options) { return CheckAnswerable(parts_, *model_, *inputs, options); },
      options_);
  if (!valid.ok()) return InBatch(valid);

  const int64_t rows = inputs->shape[0];
  BatchRequest request{model_, *inputs, context_, priority_, client_};
  const absl::Status submitted = absl::visit(
      [&](const auto& options) {
        using Options = std::decay_t<decltype(options)>;
        return parts_.batcher.Submit(std::move(request), options,
                                     [this, rows](const auto& answer, const BatchTiming& timing) {
                                       OnComputed<Options>(rows, answer, timing);
                                     });
      },
      options_);
  busy_ = submitted.ok();
  return submitted;
}

template <typename Options, typename Answer>
void PredictStreamReactor::OnComputed(int64_t rows, const absl::StatusOr<Answer>& answer,
                                      const BatchTiming& timing) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (answer.ok() && !failure_) {
    auto& options = absl::get<Options>(options_);
    answer_.Clear();
    answer_.set_first_row(row_);
    FillAnswer(parts_, *model_, *answer, timing, AnswerOf(options, answer_));
    KeepMode(answer->variance, options);
    row_ += rows;
    ++batches_;
    StartWrite(&answer_);
    return;
  }
  busy_ = false;
  if (!failure_) failure_ = InBatch(answer.status());
  Proceed(std::move(lock));
}

absl::Status PredictStreamReactor::InBatch(const absl::Status& status) const {
  if (!absl::IsInvalidArgument(status)) return status;
  std::string field = FieldOf(status);
  if (field.empty()) field = "inputs";
  if (!absl::StartsWith(field, "inputs")) field = absl::StrCat(options_path_, field);
  const absl::Status renamed = RenameField(status, field);
  absl::Status result(
      renamed.code(),
      absl::StrCat(renamed.message(), " (in the batch that begins with row ", row_, ")"));
  result.SetPayload(kFieldPayloadUrl, absl::Cord(field));
  return result;
}

}  // namespace laplaced
