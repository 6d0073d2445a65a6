// Predictions and scores, and the tensors inside them.
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cpp/convert.h"

namespace laplace::client {
namespace {

using ::laplaced::DTypeName;
using ::laplaced::ElementSize;
using ::laplaced::NumElements;
using ::laplaced::ShapeString;

absl::Status Malformed(const char* field, const std::string& problem) {
  return absl::InternalError(
      absl::StrCat("the server's answer is malformed: ", field, ": ", problem));
}

template <typename T>
std::vector<float> RawValues(const std::string& bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return std::vector<float>(values.begin(), values.end());
}

// The values of a float tensor whose shape must be `shape`.
absl::Status ReadTensor(const v1::Tensor& tensor, const std::vector<int64_t>& shape,
                        const char* field, std::vector<float>& values) {
  const std::vector<int64_t> got(tensor.shape().begin(), tensor.shape().end());
  if (got != shape) {
    return Malformed(
        field, absl::StrCat("expected shape ", ShapeString(shape), ", got ", ShapeString(got)));
  }
  const absl::StatusOr<int64_t> count = NumElements(shape);
  if (!count.ok()) return Malformed(field, count.status().ToString());
  if (tensor.float32_values_size() > 0) {
    values.assign(tensor.float32_values().begin(), tensor.float32_values().end());
  } else if (tensor.dtype() == v1::DATA_TYPE_FLOAT64) {
    values = RawValues<double>(tensor.raw_values());
  } else if (tensor.dtype() == v1::DATA_TYPE_FLOAT32) {
    values = RawValues<float>(tensor.raw_values());
  } else {
    return Malformed(field,
                     absl::StrCat("expected floats, got ", v1::DataType_Name(tensor.dtype())));
  }
  if (static_cast<int64_t>(values.size()) != *count) {
    return Malformed(field, absl::StrCat("expected ", *count, " values, got ", values.size()));
  }
  return absl::OkStatus();
}

// The values of an int64 tensor whose shape must be `shape`.
absl::Status ReadTensor(const v1::Tensor& tensor, const std::vector<int64_t>& shape,
                        const char* field, std::vector<int64_t>& values) {
  const std::vector<int64_t> got(tensor.shape().begin(), tensor.shape().end());
  const absl::StatusOr<int64_t> count = NumElements(shape);
  if (!count.ok() || got != shape || tensor.dtype() != v1::DATA_TYPE_INT64 ||
      tensor.raw_values().size() != *count * sizeof(int64_t)) {
    return Malformed(
        field, absl::StrCat("expected int64 of shape ", ShapeString(shape), ", got ",
                            v1::DataType_Name(tensor.dtype()), " of shape ", ShapeString(got)));
  }
  values.resize(static_cast<size_t>(*count));
  std::memcpy(values.data(), tensor.raw_values().data(), tensor.raw_values().size());
  return absl::OkStatus();
}

template <typename Field>
absl::Status ReadScores(const Field& messages, int64_t batch, std::vector<OodScore>& scores) {
  for (const v1::OodScore& message : messages) {
    OodScore score;
    score.name = message.name();
    score.values.assign(message.values().begin(), message.values().end());
    if (message.has_threshold()) score.threshold = message.threshold();
    score.is_ood.assign(message.is_ood().begin(), message.is_ood().end());
    score.target_id_rate = message.target_id_rate();
    const int64_t verdicts = score.threshold ? batch : 0;
    if (static_cast<int64_t>(score.values.size()) != batch ||
        static_cast<int64_t>(score.is_ood.size()) != verdicts) {
      return Malformed("ood_scores",
                       absl::StrCat(score.name, " has ", score.values.size(), " values and ",
                                    score.is_ood.size(), " verdicts for ", batch, " examples"));
    }
    scores.push_back(std::move(score));
  }
  return absl::OkStatus();
}

v1::LinkApprox ToProto(LinkApprox link) {
  switch (link) {
    case LinkApprox::kProbit:
      return v1::LINK_APPROX_PROBIT;
    case LinkApprox::kMonteCarlo:
      return v1::LINK_APPROX_MC;
    case LinkApprox::kLaplaceBridge:
      return v1::LINK_APPROX_LAPLACE_BRIDGE;
    case LinkApprox::kMeanField:
      return v1::LINK_APPROX_MEAN_FIELD;
    default:
      return v1::LINK_APPROX_UNSPECIFIED;
  }
}

constexpr std::pair<VarianceMode, v1::VarianceMode> kVarianceModes[] = {
    {VarianceMode::kDefault, v1::VARIANCE_MODE_UNSPECIFIED},
    {VarianceMode::kAuto, v1::VARIANCE_MODE_AUTO},
    {VarianceMode::kExact, v1::VARIANCE_MODE_EXACT},
    {VarianceMode::kTopClasses, v1::VARIANCE_MODE_TOP_CLASSES},
    {VarianceMode::kSampled, v1::VARIANCE_MODE_SAMPLED},
    {VarianceMode::kLastLayer, v1::VARIANCE_MODE_LAST_LAYER}};

v1::Priority ToProto(Priority priority) {
  switch (priority) {
    case Priority::kDefault:
      break;
    case Priority::kInteractive:
      return v1::PRIORITY_INTERACTIVE;
    case Priority::kBulk:
      return v1::PRIORITY_BULK;
  }
  return v1::PRIORITY_UNSPECIFIED;
}

v1::VarianceMode ToProto(VarianceMode mode) {
  for (const auto& [ours, theirs] : kVarianceModes) {
    if (ours == mode) return theirs;
  }
  return v1::VARIANCE_MODE_UNSPECIFIED;
}

VarianceMode FromProto(v1::VarianceMode mode) {
  for (const auto& [ours, theirs] : kVarianceModes) {
    if (theirs == mode) return ours;
  }
  return VarianceMode::kDefault;
}

void ReadMode(const v1::PredictResponse& response, Prediction& prediction) {
  prediction.variance_mode = FromProto(response.variance_mode());
  prediction.top_classes = response.top_classes();
  prediction.samples = response.samples();
  prediction.variance_relative_error = response.variance_relative_error();
  prediction.estimated_flops = response.estimated_flops();
}

}  // namespace

absl::Status InputsToProto(const Array& inputs, v1::Tensor& tensor) {
  const absl::StatusOr<int64_t> count = NumElements(inputs.shape);
  if (!count.ok()) return count.status();
  const int64_t expected = *count * ElementSize(inputs.dtype);
  if (expected != static_cast<int64_t>(inputs.bytes.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("inputs: ", DTypeName(inputs.dtype), " of shape ", ShapeString(inputs.shape),
                     " takes ", expected, " bytes, got ", inputs.bytes.size()));
  }
  tensor.set_dtype(ToProto(inputs.dtype));
  tensor.mutable_shape()->Add(inputs.shape.begin(), inputs.shape.end());
  tensor.set_raw_values(inputs.bytes);
  return absl::OkStatus();
}

v1::PredictRequest OptionsToProto(const PredictRequest& request) {
  v1::PredictRequest message;
  message.set_model(request.model);
  message.set_version(request.version);
  if (request.prior_precision) message.set_prior_precision(*request.prior_precision);
  message.set_link_approx(ToProto(request.link_approx));
  message.mutable_ood_scores()->Add(request.ood_scores.begin(), request.ood_scores.end());
  message.set_return_covariance(request.return_covariance);
  message.set_variance_mode(ToProto(request.variance_mode));
  message.set_top_classes(request.top_classes);
  message.set_samples(request.samples);
  message.set_seed(request.seed);
  if (request.temperature) message.set_temperature(*request.temperature);
  message.set_return_joint_covariance(request.return_joint_covariance);
  message.set_return_samples(request.return_samples);
  message.set_priority(ToProto(request.priority));
  return message;
}

v1::ScoreRequest OptionsToProto(const ScoreRequest& request) {
  v1::ScoreRequest message;
  message.set_model(request.model);
  message.set_version(request.version);
  message.mutable_ood_scores()->Add(request.ood_scores.begin(), request.ood_scores.end());
  message.set_variance_mode(ToProto(request.variance_mode));
  message.set_samples(request.samples);
  message.set_seed(request.seed);
  message.set_priority(ToProto(request.priority));
  return message;
}

absl::StatusOr<v1::PredictRequest> ToProto(const PredictRequest& request) {
  v1::PredictRequest message = OptionsToProto(request);
  const absl::Status status = InputsToProto(request.inputs, *message.mutable_inputs());
  if (!status.ok()) return status;
  return message;
}

absl::StatusOr<v1::ScoreRequest> ToProto(const ScoreRequest& request) {
  v1::ScoreRequest message = OptionsToProto(request);
  const absl::Status status = InputsToProto(request.inputs, *message.mutable_inputs());
  if (!status.ok()) return status;
  return message;
}

absl::StatusOr<Prediction> FromProto(const v1::PredictResponse& response) {
  Prediction prediction;
  prediction.model = response.model();
  prediction.version = response.version();
  prediction.posterior_id = response.posterior_id();
  prediction.prior_precision = response.prior_precision();
  prediction.temperature = response.temperature();
  ReadMode(response, prediction);
  prediction.timing = {response.timing().queue_seconds(), response.timing().compute_seconds()};
  if (response.mean().shape_size() != 2) return Malformed("mean", "expected shape [B, C]");
  const int64_t batch = prediction.batch = response.mean().shape(0);
  const int64_t outputs = prediction.outputs = response.mean().shape(1);
  // Per example for a categorical likelihood, per output for the others.
  std::vector<int64_t> split_shape = {batch};
  if (response.epistemic().shape_size() == 2) split_shape.push_back(outputs);

  struct Part {
    const v1::Tensor& tensor;
    std::vector<int64_t> shape;
    const char* field;
    std::vector<float>& values;
  };
  const std::vector<int64_t> matrix = {batch, outputs};
  const int64_t width = prediction.variance_width = response.variance_outputs().shape_size() == 2
                                                        ? response.variance_outputs().shape(1)
                                                        : outputs;
  std::vector<Part> parts = {
      {response.mean(), matrix, "mean", prediction.mean},
      {response.map_mean(), matrix, "map_mean", prediction.map_mean},
      {response.functional_mean(), matrix, "functional_mean", prediction.functional_mean},
      {response.functional_variance(),
       {batch, width},
       "functional_variance",
       prediction.functional_variance},
      {response.epistemic(), split_shape, "epistemic", prediction.epistemic},
      {response.aleatoric(), split_shape, "aleatoric", prediction.aleatoric}};
  if (response.has_functional_covariance()) {
    parts.push_back({response.functional_covariance(),
                     {batch, width, width},
                     "functional_covariance",
                     prediction.functional_covariance});
  }
  if (response.has_joint_covariance()) {
    parts.push_back({response.joint_covariance(),
                     {batch, outputs, batch, outputs},
                     "joint_covariance",
                     prediction.joint_covariance});
  }
  if (response.has_function_samples()) {
    const v1::Tensor& samples = response.function_samples();
    const int64_t draws = samples.shape_size() == 3 ? samples.shape(0) : 0;
    parts.push_back(
        {samples, {draws, batch, outputs}, "function_samples", prediction.function_samples});
  }
  if (response.has_variance_outputs()) {
    parts.push_back({response.left_out_probability(),
                     {batch},
                     "left_out_probability",
                     prediction.left_out_probability});
    parts.push_back(
        {response.left_out_bound(), {batch}, "left_out_bound", prediction.left_out_bound});
    const absl::Status status = ReadTensor(response.variance_outputs(), {batch, width},
                                           "variance_outputs", prediction.variance_outputs);
    if (!status.ok()) return status;
  }
  for (const Part& part : parts) {
    const absl::Status status = ReadTensor(part.tensor, part.shape, part.field, part.values);
    if (!status.ok()) return status;
  }
  if (absl::Status status = ReadScores(response.ood_scores(), batch, prediction.ood_scores);
      !status.ok()) {
    return status;
  }
  return prediction;
}

absl::StatusOr<Scores> FromProto(const v1::ScoreResponse& response) {
  Scores scores;
  scores.model = response.model();
  scores.version = response.version();
  scores.posterior_id = response.posterior_id();
  scores.timing = {response.timing().queue_seconds(), response.timing().compute_seconds()};
  scores.variance_mode = FromProto(response.variance_mode());
  scores.samples = response.samples();
  scores.estimated_flops = response.estimated_flops();
  const int64_t batch = response.ood_scores_size() ? response.ood_scores(0).values_size() : 0;
  if (absl::Status status = ReadScores(response.ood_scores(), batch, scores.ood_scores);
      !status.ok()) {
    return status;
  }
  return scores;
}

}  // namespace laplace::client
