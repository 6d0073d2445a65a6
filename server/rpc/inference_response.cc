#include "server/rpc/inference_response.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace laplaced {
namespace {

using inference::ModelInferResponse;
using inference::ModelMetadataResponse;

const char* ModeWord(VarianceMode mode) {
  switch (mode) {
    case VarianceMode::kAuto:
      break;
    case VarianceMode::kExact:
      return "exact";
    case VarianceMode::kTopClasses:
      return "top_classes";
    case VarianceMode::kSampled:
      return "sampled";
    case VarianceMode::kLastLayer:
      return "last_layer";
  }
  return "none";
}

const char* LikelihoodWord(LikelihoodKind kind) {
  switch (kind) {
    case LikelihoodKind::kCategorical:
      return "categorical";
    case LikelihoodKind::kGaussian:
      return "gaussian";
    case LikelihoodKind::kBernoulli:
      return "bernoulli";
  }
  return "";
}

// Adds outputs that are asked for, typed or raw.
class Outputs {
 public:
  Outputs(const InferenceRequest& request, ModelInferResponse* response)
      : request_(request), response_(*response) {}

  bool Named(const char* name) const {
    return std::find(request_.outputs.begin(), request_.outputs.end(), name) !=
           request_.outputs.end();
  }
  bool Wanted(const char* name) const { return request_.outputs.empty() || Named(name); }

  void Add(const char* name, const std::vector<float>& values, const std::vector<int64_t>& shape) {
    auto* contents = AddTensor(name, "FP32", shape, values.data(), values.size() * sizeof(float));
    if (contents != nullptr) {
      contents->mutable_fp32_contents()->Assign(values.begin(), values.end());
    }
  }
  void Add(const char* name, const std::vector<double>& values, const std::vector<int64_t>& shape) {
    auto* contents = AddTensor(name, "FP64", shape, values.data(), values.size() * sizeof(double));
    if (contents != nullptr) {
      contents->mutable_fp64_contents()->Assign(values.begin(), values.end());
    }
  }
  void Add(const char* name, const std::vector<int64_t>& values,
           const std::vector<int64_t>& shape) {
    auto* contents =
        AddTensor(name, "INT64", shape, values.data(), values.size() * sizeof(int64_t));
    if (contents != nullptr) {
      contents->mutable_int64_contents()->Assign(values.begin(), values.end());
    }
  }
  void Add(const char* name, const std::vector<char>& flags, const std::vector<int64_t>& shape) {
    auto* contents = AddTensor(name, "BOOL", shape, flags.data(), flags.size());
    if (contents == nullptr) return;
    for (const char flag : flags) contents->add_bool_contents(flag != 0);
  }

 private:
  // Null if the bytes have gone where raw ones go.
  inference::InferTensorContents* AddTensor(const char* name, const char* datatype,
                                            const std::vector<int64_t>& shape, const void* data,
                                            size_t bytes) {
    auto* tensor = response_.add_outputs();
    tensor->set_name(name);
    tensor->set_datatype(datatype);
    tensor->mutable_shape()->Assign(shape.begin(), shape.end());
    if (!request_.raw) return tensor->mutable_contents();
    response_.add_raw_output_contents(data, bytes);
    return nullptr;
  }

  const InferenceRequest& request_;
  ModelInferResponse& response_;
};

void FillCommon(const ModelInfo& model, const std::string& posterior_id,
                const VarianceReport& variance, const BatchTiming& timing,
                ModelInferResponse* response) {
  response->set_model_name(model.name);
  response->set_model_version(absl::StrCat(model.version));
  auto& parameters = *response->mutable_parameters();
  parameters["posterior_id"].set_string_param(posterior_id);
  parameters["variance_mode"].set_string_param(ModeWord(variance.mode));
  parameters["queue_seconds"].set_double_param(timing.queue_seconds);
  parameters["compute_seconds"].set_double_param(timing.compute_seconds);
}

void FillOptions(const Prediction& answer, ModelInferResponse* response) {
  auto& parameters = *response->mutable_parameters();
  parameters["prior_precision"].set_double_param(answer.prior_precision);
  parameters["temperature"].set_double_param(answer.temperature);
  if (answer.variance.top_classes > 0) {
    parameters["top_classes"].set_int64_param(answer.variance.top_classes);
  }
  if (answer.variance.samples > 0) {
    parameters["samples"].set_int64_param(answer.variance.samples);
    parameters["variance_relative_error"].set_double_param(answer.variance.relative_error);
  }
}

// Which outputs `variance` is of, and what is left out: none of them, if nothing was.
void AddVarianceOutputs(const Prediction& answer, Outputs& outputs) {
  const int64_t b = answer.batch;
  const auto size = static_cast<size_t>(b);
  const bool some = !answer.variance_outputs.empty();
  if (some && outputs.Wanted(kVarianceClassesOutput)) {
    outputs.Add(kVarianceClassesOutput, answer.variance_outputs,
                {b, static_cast<int64_t>(answer.variance_outputs.size()) / b});
  } else if (outputs.Named(kVarianceClassesOutput)) {
    const auto c = static_cast<size_t>(answer.outputs);
    std::vector<int64_t> every(size * c);
    for (size_t i = 0; i < every.size(); ++i) every[i] = static_cast<int64_t>(i % c);
    outputs.Add(kVarianceClassesOutput, every, {b, answer.outputs});
  }
  const std::vector<float> none(some ? 0 : size);
  if (outputs.Named(kLeftOutProbabilityOutput)) {
    outputs.Add(kLeftOutProbabilityOutput, some ? answer.left_out_probability : none, {b});
  }
  if (outputs.Named(kLeftOutBoundOutput)) {
    outputs.Add(kLeftOutBoundOutput, some ? answer.left_out_bound : none, {b});
  }
}

absl::Status AddScore(const std::vector<ScoreValues>& scores, Outputs& outputs,
                      ModelInferResponse* response) {
  const bool outlier_named = outputs.Named(kIsOutlierOutput);
  if (scores.empty()) {
    if (!outlier_named && !outputs.Named(kInstanceScoreOutput)) return absl::OkStatus();
    return absl::FailedPreconditionError(
        "the posterior's default score cannot be had in this variance_mode; name another with the "
        "parameter ood_score");
  }
  const ScoreValues& score = scores[0];
  const auto batch = static_cast<int64_t>(score.values.size());
  auto& parameters = *response->mutable_parameters();
  parameters["ood_score"].set_string_param(score.name);
  if (outputs.Wanted(kInstanceScoreOutput)) {
    outputs.Add(kInstanceScoreOutput, score.values, {batch});
  }
  if (score.calibration == nullptr) {
    if (!outlier_named) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(
        "is_outlier: the score ", score.name,
        " has no threshold for this answer: calibrate the posterior (CalibrateOod, `laplace "
        "posterior calibrate`), or take a variance_mode that the threshold is for"));
  }
  parameters["ood_threshold"].set_double_param(score.calibration->threshold);
  parameters["ood_target_id_rate"].set_double_param(score.calibration->target_id_rate);
  if (!outputs.Wanted(kIsOutlierOutput)) return absl::OkStatus();
  std::vector<char> flags;
  for (const double value : score.values) {
    flags.push_back(IsOod(value, score.calibration->threshold) ? 1 : 0);
  }
  outputs.Add(kIsOutlierOutput, flags, {batch});
  return absl::OkStatus();
}

void AddTensorMetadata(const char* name, const char* datatype, const std::vector<int64_t>& shape,
                       ModelMetadataResponse::TensorMetadata* tensor) {
  tensor->set_name(name);
  tensor->set_datatype(datatype);
  tensor->mutable_shape()->Assign(shape.begin(), shape.end());
}

}  // namespace

absl::Status FillInference(const InferenceRequest& request, const ModelInfo& model,
                           const Prediction& answer, const BatchTiming& timing,
                           ModelInferResponse* response) {
  FillCommon(model, answer.posterior_id, answer.variance, timing, response);
  FillOptions(answer, response);
  Outputs outputs(request, response);
  const int64_t b = answer.batch, c = answer.outputs;
  const int64_t r = static_cast<int64_t>(answer.functional_variance.size()) / b;
  std::vector<int64_t> parts = {b};
  if (answer.likelihood != LikelihoodKind::kCategorical) parts.push_back(c);
  const std::pair<const char*, const std::vector<float>*> usual[] = {
      {kMeanOutput, &answer.mean},
      {kVarianceOutput, &answer.functional_variance},
      {kEpistemicOutput, &answer.epistemic},
      {kAleatoricOutput, &answer.aleatoric}};
  const std::vector<int64_t> shapes[] = {{b, c}, {b, r}, parts, parts};
  for (size_t i = 0; i < 4; ++i) {
    if (outputs.Wanted(usual[i].first)) outputs.Add(usual[i].first, *usual[i].second, shapes[i]);
  }
  const absl::Status score = AddScore(answer.scores, outputs, response);
  if (!score.ok()) return score;
  if (outputs.Named(kMapMeanOutput)) outputs.Add(kMapMeanOutput, answer.map_mean, {b, c});
  if (outputs.Named(kFunctionalMeanOutput)) {
    outputs.Add(kFunctionalMeanOutput, answer.functional_mean, {b, c});
  }
  if (outputs.Named(kFunctionalCovarianceOutput)) {
    outputs.Add(kFunctionalCovarianceOutput, answer.functional_covariance, {b, r, r});
  }
  AddVarianceOutputs(answer, outputs);
  return absl::OkStatus();
}

absl::Status FillInference(const InferenceRequest& request, const ModelInfo& model,
                           const Scores& answer, const BatchTiming& timing,
                           ModelInferResponse* response) {
  FillCommon(model, answer.posterior_id, answer.variance, timing, response);
  Outputs outputs(request, response);
  return AddScore(answer.scores, outputs, response);
}

void FillModelMetadata(const ModelInfo& model, ModelMetadataResponse* response) {
  response->set_name(model.name);
  response->set_platform("pytorch_torchscript");
  std::vector<int64_t> shape = {-1};
  shape.insert(shape.end(), model.input_shape.begin(), model.input_shape.end());
  const char* datatype = model.accepts_uint8                    ? "UINT8"
                         : model.input_dtype == DType::kFloat64 ? "FP64"
                                                                : "FP32";
  AddTensorMetadata("inputs", datatype, shape, response->add_inputs());
  const std::vector<int64_t> per_output = {-1, model.n_outputs};
  const std::vector<int64_t> parts =
      model.likelihood == LikelihoodKind::kCategorical ? std::vector<int64_t>{-1} : per_output;
  AddTensorMetadata(kMeanOutput, "FP32", per_output, response->add_outputs());
  AddTensorMetadata(kVarianceOutput, "FP32", per_output, response->add_outputs());
  AddTensorMetadata(kEpistemicOutput, "FP32", parts, response->add_outputs());
  AddTensorMetadata(kAleatoricOutput, "FP32", parts, response->add_outputs());
  AddTensorMetadata(kInstanceScoreOutput, "FP64", {-1}, response->add_outputs());
  AddTensorMetadata(kIsOutlierOutput, "BOOL", {-1}, response->add_outputs());
  auto& properties = *response->mutable_properties();
  properties["likelihood"] = LikelihoodWord(model.likelihood);
  properties["posterior_id"] = model.active_posterior_id;
  properties["version"] = absl::StrCat(model.version);
  if (!model.class_names.empty()) {
    properties["class_names"] = absl::StrJoin(model.class_names, ",");
  }
}

}  // namespace laplaced
