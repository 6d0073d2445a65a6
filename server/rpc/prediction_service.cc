#include "server/rpc/prediction_service.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/model/field_error.h"
#include "server/rpc/record_codec.h"
#include "server/rpc/request_checks.h"
#include "server/rpc/request_codec.h"
#include "server/rpc/tensor_codec.h"
#include "server/rpc/unary_job.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;
using std::chrono::steady_clock;

constexpr char kPredict[] = "PredictionService.Predict";
constexpr char kScore[] = "PredictionService.Score";

// A request that passed every check, ready to compute. `inputs` aliases the request.
template <typename Options>
struct Prepared {
  std::shared_ptr<const ServedModel> model;
  ArrayView inputs;
  Options options;
};

template <typename Request, typename Options>
absl::StatusOr<Prepared<Options>> Prepare(const ModelHost& host, const Request& request,
                                          absl::StatusOr<Options> options) {
  const absl::Status named = CheckModel("model", request.model(), request.version());
  if (!named.ok()) return named;
  if (!options.ok()) return options.status();
  absl::StatusOr<ArrayView> inputs = ViewTensor(request.inputs(), "inputs");
  if (!inputs.ok()) return inputs.status();
  auto model = host.Pin(request.model(), request.version());
  if (!model.ok()) return model.status();
  const absl::Status valid = (*model)->Validate(*inputs, *options);
  if (!valid.ok()) return valid;
  return Prepared<Options>{*std::move(model), *std::move(inputs), *std::move(options)};
}

// Refuses an answer that could not be sent: covariances and function samples beyond the server's
// message size, or anything beyond the 2 GiB that a protobuf message can hold.
absl::Status CheckAnswerSize(const Prepared<PredictOptions>& job, int64_t max_message_bytes) {
  constexpr double kLargestMessage = 2147483647.0;
  constexpr double kArraysPerAnswer = 6;
  const PredictOptions& options = job.options;
  const double b = job.inputs.shape.empty() ? 1 : static_cast<double>(job.inputs.shape[0]);
  const double c = static_cast<double>(job.model->info().n_outputs);
  // The covariance has m outputs in TOP_CLASSES.
  const double r =
      options.variance_mode == VarianceMode::kTopClasses
          ? std::min(c, static_cast<double>(options.top_classes > 0 ? options.top_classes
                                                                    : kDefaultTopClasses))
          : c;
  const std::pair<const char*, double> extras[] = {
      {"return_covariance", options.return_covariance ? b * r * r : 0},
      {"return_joint_covariance", options.return_joint_covariance ? b * c * b * c : 0},
      {"return_samples", static_cast<double>(options.return_samples) * b * c}};
  const char* field = "inputs.shape[0]";
  double values = b * c * kArraysPerAnswer, largest = 0;
  for (const auto& [name, size] : extras) {
    values += size;
    if (size > largest) field = name;
    largest = std::max(largest, size);
  }
  const double bytes = 4 * values;
  const double limit = largest > 0 ? static_cast<double>(max_message_bytes) : kLargestMessage;
  if (bytes <= limit) return absl::OkStatus();
  return FieldError(
      field, absl::StrCat("expected an answer of at most ", static_cast<int64_t>(limit),
                          " bytes, got about ", bytes, " bytes for ", b, " examples with ", c,
                          " outputs; send fewer examples per request"));
}

double SecondsSince(steady_clock::time_point begin) {
  return std::chrono::duration<double>(steady_clock::now() - begin).count();
}

// The parts that both responses have.
template <typename Response>
void FillCommon(const ServedModel& model, double queue_seconds, steady_clock::time_point begin,
                Response* response) {
  response->set_model(model.info().name);
  response->set_version(model.info().version);
  response->mutable_timing()->set_queue_seconds(queue_seconds);
  response->mutable_timing()->set_compute_seconds(SecondsSince(begin));
}

}  // namespace

PredictionService::PredictionService(const ModelHost& host, ComputeQueue& queue,
                                     int64_t max_response_bytes)
    : host_(host), queue_(queue), max_response_bytes_(max_response_bytes) {}

grpc::ServerUnaryReactor* PredictionService::Predict(grpc::CallbackServerContext* call,
                                                     const v1::PredictRequest* request,
                                                     v1::PredictResponse* response) {
  auto job = Prepare(host_, *request, ToPredictOptions(*request));
  if (!job.ok()) return FinishNow(call, kPredict, job.status());
  const absl::Status size = CheckAnswerSize(*job, max_response_bytes_);
  if (!size.ok()) return FinishNow(call, kPredict, size);
  return RunOnQueue(
      queue_, call, kPredict,
      [job = *std::move(job), response](const ComputeContext& context, double queue_seconds) {
        const steady_clock::time_point begin = steady_clock::now();
        const auto prediction = job.model->Predict(job.inputs, job.options, context);
        if (!prediction.ok()) return prediction.status();
        FillPrediction(*prediction, response);
        FillCommon(*job.model, queue_seconds, begin, response);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* PredictionService::Score(grpc::CallbackServerContext* call,
                                                   const v1::ScoreRequest* request,
                                                   v1::ScoreResponse* response) {
  auto job = Prepare(host_, *request, ToScoreOptions(*request));
  if (!job.ok()) return FinishNow(call, kScore, job.status());
  return RunOnQueue(
      queue_, call, kScore,
      [job = *std::move(job), response](const ComputeContext& context, double queue_seconds) {
        const steady_clock::time_point begin = steady_clock::now();
        const auto scores = job.model->Score(job.inputs, job.options, context);
        if (!scores.ok()) return scores.status();
        response->set_posterior_id(scores->posterior_id);
        FillVariance(scores->variance, response);
        for (const ScoreValues& score : scores->scores) {
          FillScore(score, response->add_ood_scores());
        }
        FillCommon(*job.model, queue_seconds, begin, response);
        return absl::OkStatus();
      });
}

}  // namespace laplaced
