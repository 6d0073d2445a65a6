#include "client/cli/prediction_quality.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/examples.h"
#include "formats/array.h"

namespace laplace::cli {
namespace {

using client::Array;
using client::DType;

template <typename From, typename To>
std::vector<To> Values(const Array& array) {
  const size_t count = array.bytes.size() / sizeof(From);
  return std::vector<To>(array.data<From>(), array.data<From>() + count);
}

std::vector<ExampleMetric> Metrics(const client::Model& model, const client::Prediction& prediction,
                                   const Truth& truth, const std::vector<float>& mean,
                                   const std::vector<double>& variances) {
  switch (model.likelihood) {
    case client::Likelihood::kCategorical:
      return CategoricalMetrics(mean, prediction.outputs, truth.classes);
    case client::Likelihood::kBernoulli:
      return BernoulliMetrics(mean, prediction.outputs, truth.labels);
    default:
      return GaussianMetrics(mean, variances, prediction.outputs, truth.targets);
  }
}

}  // namespace

absl::StatusOr<Truth> ReadTruth(const client::Model& model, Array targets) {
  const absl::Status status = ShapeTargetsForModel(model, targets);
  if (!status.ok()) return status;
  Truth truth;
  switch (model.likelihood) {
    case client::Likelihood::kCategorical: {
      absl::StatusOr<std::vector<int64_t>> classes = ClassLabels(targets, model.n_outputs);
      if (!classes.ok()) return classes.status();
      truth.classes = *std::move(classes);
      return truth;
    }
    case client::Likelihood::kBernoulli:
      truth.labels = Values<float, float>(targets);
      return truth;
    case client::Likelihood::kGaussian: {
      const bool shaped = targets.shape == std::vector<int64_t>{targets.rows(), model.n_outputs};
      if (shaped && targets.dtype == DType::kFloat32) {
        truth.targets = Values<float, double>(targets);
        return truth;
      }
      if (shaped && targets.dtype == DType::kFloat64) {
        truth.targets = Values<double, double>(targets);
        return truth;
      }
      return absl::InvalidArgumentError(
          absl::StrCat("targets: model ", model.name, " predicts ", model.n_outputs,
                       " numbers: expected float32 or float64 of shape [N, ", model.n_outputs,
                       "], got ", ::laplaced::DTypeName(targets.dtype), " of shape ",
                       ::laplaced::ShapeString(targets.shape)));
    }
    default:
      return absl::FailedPreconditionError(
          absl::StrCat("model ", model.name,
                       " has a likelihood that this client does not know: update the client"));
  }
}

std::vector<ExampleMetric> PlainNetworkMetrics(const client::Model& model,
                                               const client::Prediction& prediction,
                                               const Truth& truth) {
  const std::vector<double> noise(prediction.aleatoric.begin(), prediction.aleatoric.end());
  return Metrics(model, prediction, truth, prediction.map_mean, noise);
}

std::vector<ExampleMetric> LaplaceMetrics(const client::Model& model,
                                          const client::Prediction& prediction,
                                          const Truth& truth) {
  std::vector<double> variances(prediction.aleatoric.begin(), prediction.aleatoric.end());
  for (size_t i = 0; i < variances.size() && i < prediction.epistemic.size(); ++i) {
    variances[i] += prediction.epistemic[i];
  }
  return Metrics(model, prediction, truth, prediction.mean, variances);
}

}  // namespace laplace::cli
