#include "server/rpc/prediction_work.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/model/field_error.h"
#include "server/rpc/record_codec.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;

// Refuses an answer that could not be sent: covariances and function samples beyond the server's
// message size, or anything beyond the 2 GiB that a protobuf message can hold.
absl::Status CheckAnswerSize(const ServedModel& model, const ArrayView& inputs,
                             const PredictOptions& options, int64_t max_message_bytes) {
  constexpr double kLargestMessage = 2147483647.0;
  constexpr double kArraysPerAnswer = 6;
  const double b = inputs.shape.empty() ? 1 : static_cast<double>(inputs.shape[0]);
  const double c = static_cast<double>(model.info().n_outputs);
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

// The parts that both responses have.
template <typename Response>
void FillCommon(const ServedModel& model, const BatchTiming& timing, Response* response) {
  response->set_model(model.info().name);
  response->set_version(model.info().version);
  response->mutable_timing()->set_queue_seconds(timing.queue_seconds);
  response->mutable_timing()->set_compute_seconds(timing.compute_seconds);
}

void CountVerdicts(OodMetrics& metrics, const OodSource& source,
                   const std::vector<ScoreValues>& scores) {
  for (const ScoreValues& score : scores) {
    if (score.calibration == nullptr) continue;
    const OodThresholdRecord& calibration = *score.calibration;
    std::vector<bool> flagged;
    flagged.reserve(score.values.size());
    for (const double value : score.values) flagged.push_back(IsOod(value, calibration.threshold));
    metrics.Observe(source,
                    {score.name, score.values, std::move(flagged), calibration.target_id_rate,
                     calibration.rate_upper, calibration.id_quantiles});
  }
}

// [B]: the mean over the outputs where each has an epistemic part of its own.
std::vector<double> EpistemicOfExamples(const Prediction& answer) {
  const auto examples = static_cast<size_t>(answer.batch);
  const size_t outputs = examples == 0 ? 0 : answer.epistemic.size() / examples;
  std::vector<double> means;
  if (outputs == 0) return means;
  means.reserve(examples);
  for (auto row = answer.epistemic.begin(); means.size() < examples; row += outputs) {
    means.push_back(std::accumulate(row, row + outputs, 0.0) / static_cast<double>(outputs));
  }
  return means;
}

}  // namespace

absl::Status CheckAnswerable(const PredictionParts& parts, const ServedModel& model,
                             const ArrayView& inputs, const PredictOptions& options) {
  const absl::Status valid = model.Validate(inputs, options);
  if (!valid.ok()) return valid;
  return CheckAnswerSize(model, inputs, options, parts.max_response_bytes);
}

absl::Status CheckAnswerable(const PredictionParts&, const ServedModel& model,
                             const ArrayView& inputs, const ScoreOptions& options) {
  return model.Validate(inputs, options);
}

void CountAnswer(OodMetrics& metrics, const ModelInfo& model, const Prediction& answer) {
  const OodSource source{model.name, model.version, answer.posterior_id};
  CountVerdicts(metrics, source, answer.scores);
  metrics.ObserveEpistemic(source, EpistemicOfExamples(answer));
}

void CountAnswer(OodMetrics& metrics, const ModelInfo& model, const Scores& answer) {
  CountVerdicts(metrics, {model.name, model.version, answer.posterior_id}, answer.scores);
}

void FillAnswer(const PredictionParts& parts, const ServedModel& model, const Prediction& answer,
                const BatchTiming& timing, v1::PredictResponse* response) {
  FillPrediction(answer, response);
  FillCommon(model, timing, response);
  CountAnswer(parts.ood_metrics, model.info(), answer);
}

void FillAnswer(const PredictionParts& parts, const ServedModel& model, const Scores& answer,
                const BatchTiming& timing, v1::ScoreResponse* response) {
  response->set_posterior_id(answer.posterior_id);
  FillVariance(answer.variance, response);
  for (const ScoreValues& score : answer.scores) FillScore(score, response->add_ood_scores());
  FillCommon(model, timing, response);
  CountAnswer(parts.ood_metrics, model.info(), answer);
}

}  // namespace laplaced
