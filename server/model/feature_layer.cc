#include "server/model/feature_layer.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/model/field_error.h"
#include "server/model/parameter_selection.h"
#include "server/model/torch_status.h"

namespace laplaced {
namespace {

constexpr char kField[] = "options.feature_layer";
constexpr int64_t kTrialExamples = 16;

// Input of the weight on a trial batch, [n, D] fp64; undefined if it has none.
at::Tensor TrialFeatures(const Network& network, const CapturePlan& plan, size_t weight,
                         at::Tensor* f) {
  const LayerForward forward =
      ForwardWithInputOf(network, network.TrialInputs(kTrialExamples), plan, weight);
  *f = forward.outputs.to(at::kDouble);
  return forward.input.defined() ? forward.input.to(at::kDouble) : at::Tensor();
}

// Fills the head if f - W phi is the same for every example, which it is if and only if f is a
// linear function of these features.
void FindHead(const Network& network, const at::Tensor& f, const at::Tensor& features,
              FeatureLayer& layer) {
  const at::Tensor w =
      network.parameters()[layer.parameter].value.detach().to(at::kDouble).flatten(1);
  if (w.size(0) != f.size(1) || w.size(1) != layer.width) return;
  const at::Tensor rest = f - at::matmul(features, w.t());
  const at::Tensor bias = rest.mean(0);
  const double scale =
      std::max(1.0, std::max(f.abs().max().item<double>(), bias.abs().max().item<double>()));
  const double tolerance = network.dtype() == at::kDouble ? 1e-9 : 1e-4;
  if ((rest - bias).abs().max().item<double>() > tolerance * scale) return;
  layer.head_weight = w.contiguous();
  layer.head_bias = bias;
}

absl::StatusOr<FeatureLayer> LayerOf(const Network& network, const CapturePlan& plan, size_t i) {
  const std::string& name = network.parameters()[i].name;
  if (network.parameters()[i].value.dim() < 2) {
    return absl::NotFoundError(absl::StrCat(name, " is no weight of a layer"));
  }
  at::Tensor f;
  const at::Tensor features = TrialFeatures(network, plan, i, &f);
  if (!features.defined()) {
    return absl::NotFoundError(
        absl::StrCat(name,
                     " is not captured, is used several times, or is no linear layer's or "
                     "convolution's weight"));
  }
  FeatureLayer layer{name, i, features.size(1), {}, {}};
  if (layer.width > kMostFeatures) {
    return absl::NotFoundError(absl::StrCat(name, " has ", layer.width, " features, more than the ",
                                            kMostFeatures, " whose covariance can be kept"));
  }
  FindHead(network, f, features, layer);
  return layer;
}

}  // namespace

absl::StatusOr<FeatureLayer> FindFeatureLayer(const Network& network, const CapturePlan& plan,
                                              const std::string& requested) {
  const std::vector<Parameter>& parameters = network.parameters();
  if (!requested.empty()) {
    std::vector<std::string> names;
    for (size_t i = 0; i < parameters.size(); ++i) {
      if (parameters[i].name == requested) {
        auto layer = LayerOf(network, plan, i);
        return layer.ok() ? layer : FieldError(kField, layer.status().message());
      }
      if (plan.captured[i] && parameters[i].value.dim() >= 2) names.push_back(parameters[i].name);
    }
    return FieldError(
        kField, absl::StrCat("expected the name of a weight, one of ", absl::StrJoin(names, ", "),
                             "; got \"", requested.substr(0, 100), "\""));
  }
  const std::vector<std::string> last = LastLayerParameters(network);
  absl::StatusOr<FeatureLayer> best = absl::NotFoundError("the last layer has no weight");
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (std::find(last.begin(), last.end(), parameters[i].name) == last.end()) continue;
    if (best.ok() && best->has_head()) break;
    auto layer = LayerOf(network, plan, i);
    if (layer.ok() || !best.ok()) best = std::move(layer);
  }
  return best;
}

absl::StatusOr<FeatureForward> ForwardFeatures(const Network& network, const CapturePlan& plan,
                                               const FeatureLayer& layer, const at::Tensor& x) {
  const LayerForward forward = ForwardWithInputOf(network, x, plan, layer.parameter);
  if (!forward.input.defined() || forward.input.size(1) != layer.width) {
    return absl::FailedPreconditionError(
        absl::StrCat("these inputs take another way through the network, in which the features at ",
                     layer.weight, " are not known"));
  }
  return FeatureForward{forward.outputs.to(at::kDouble), forward.input.to(at::kDouble)};
}

}  // namespace laplaced
