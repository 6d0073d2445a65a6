#include "server/serving/torch_served_model.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "server/curvature/jacobian_products.h"
#include "server/laplace/predictive.h"
#include "server/model/field_error.h"
#include "server/model/input_transform.h"
#include "server/model/torch_status.h"
#include "server/ood/scores.h"

namespace laplaced {
namespace {

constexpr int64_t kForwardBlock = 64;

int64_t NextPowerOfTwo(int64_t n) {
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}

// The largest power of two that ExamplesPerStep allows.
int64_t BlockSize(const Network& network) {
  const int64_t most = ExamplesPerStep(network), power = NextPowerOfTwo(most);
  return power > most ? power / 2 : power;
}

at::Tensor PadToPowerOfTwo(const at::Tensor& x) {
  const int64_t missing = NextPowerOfTwo(x.size(0)) - x.size(0);
  if (missing == 0) return x;
  std::vector<int64_t> shape = x.sizes().vec();
  shape[0] = missing;
  return at::cat({x, x.narrow(0, 0, 1).expand(shape)});
}

void Append(std::vector<float>& out, const at::Tensor& t) {
  const at::Tensor c = t.to(at::kFloat).contiguous();
  out.insert(out.end(), c.data_ptr<float>(), c.data_ptr<float>() + c.numel());
}

void AppendScores(std::vector<ScoreValues>& out, const std::vector<at::Tensor>& scores) {
  for (size_t i = 0; i < scores.size(); ++i) {
    const at::Tensor c = scores[i].to(at::kDouble).contiguous();
    out[i].values.insert(out[i].values.end(), c.data_ptr<double>(),
                         c.data_ptr<double>() + c.numel());
  }
}

// Finite inputs can still be too large for the network's precision.
absl::Status CheckFinite(const at::Tensor& rows, int64_t begin) {
  const at::Tensor bad = rows.isfinite().all(1).logical_not();
  if (!bad.any().item<bool>()) return absl::OkStatus();
  return FieldError(
      "inputs",
      absl::StrCat("row ", begin + bad.nonzero()[0].item<int64_t>(),
                   " makes the network's outputs or their derivatives overflow: values are too "
                   "large for the precision that the network computes in"));
}

// The Gaussian over the outputs of `count` examples from `begin`, without the padding.
absl::StatusOr<Linearized> LinearizeBlock(const LoadedModel& model,
                                          const LoadedPosterior& posterior,
                                          const LinearizeRequest& request, const at::Tensor& raw,
                                          int64_t begin, int64_t count) {
  const at::Tensor x = PadToPowerOfTwo(
      ToNetworkInput(raw.narrow(0, begin, count), model.manifest, model.network.dtype()));
  LAPLACED_ASSIGN_OR_RETURN(
      Linearized block, posterior.value.structure->Linearize(
                            posterior.uncertain.network, posterior.uncertain.capture, x, request));
  at::Tensor sum = block.f = block.f.narrow(0, 0, count);
  // A gradient that overflows shows up in every variance.
  for (at::Tensor& v : block.variance) sum = sum + (v = v.narrow(0, 0, count));
  for (at::Tensor& v : block.covariance) {
    v = v.narrow(0, 0, count);
    sum = sum + v.diagonal(0, 1, 2);
  }
  if (block.outside.defined()) {
    block.outside = block.outside.narrow(0, 0, count);
    sum = sum + block.outside.unsqueeze(1);
  }
  LAPLACED_RETURN_IF_ERROR(CheckFinite(sum, begin));
  return block;
}

void AppendClassification(const Linearized& block, const PredictOptions& options, Prediction& out) {
  const at::Tensor covariance = block.covariance[0];
  const at::Tensor variance = covariance.diagonal(0, 1, 2);
  const SampledPredictive sampled = SamplePredictive(block.f, covariance);
  Append(out.mean, options.link_approx == LinkApprox::kMonteCarlo
                       ? sampled.mean
                       : ProbitProbabilities(block.f, variance));
  Append(out.map_mean, at::softmax(block.f, 1));
  Append(out.functional_variance, variance);
  if (options.return_covariance) Append(out.functional_covariance, covariance);
  Append(out.epistemic, sampled.epistemic);
  Append(out.aleatoric, sampled.aleatoric);
}

void AppendLabels(const Linearized& block, const PredictOptions& options, Prediction& out) {
  const at::Tensor covariance = block.covariance[0];
  const at::Tensor variance = covariance.diagonal(0, 1, 2);
  const BernoulliPredictive integrated = IntegrateBernoulli(block.f, variance);
  Append(out.mean, options.link_approx == LinkApprox::kMonteCarlo
                       ? integrated.mean
                       : BernoulliProbit(block.f, variance));
  Append(out.map_mean, at::sigmoid(block.f));
  Append(out.functional_variance, variance);
  if (options.return_covariance) Append(out.functional_covariance, covariance);
  Append(out.epistemic, integrated.epistemic);
  Append(out.aleatoric, integrated.aleatoric);
}

void AppendRegression(const Linearized& block, const Likelihood& likelihood,
                      const PredictOptions& options, Prediction& out) {
  const at::Tensor variance = block.covariance[0].diagonal(0, 1, 2);
  Append(out.mean, block.f);
  Append(out.map_mean, block.f);
  Append(out.functional_variance, variance);
  if (options.return_covariance) Append(out.functional_covariance, block.covariance[0]);
  Append(out.epistemic, variance);
  Append(out.aleatoric, at::full_like(variance, likelihood.sigma_noise * likelihood.sigma_noise));
}

}  // namespace

TorchServedModel::TorchServedModel(std::shared_ptr<const LoadedModel> model,
                                   std::shared_ptr<const LoadedPosterior> posterior,
                                   const ModelHostOptions& options, const std::string& remark)
    : model_(std::move(model)),
      posterior_(std::move(posterior)),
      options_(options),
      info_(model_->info),
      remark_(remark) {
  if (posterior_ != nullptr) info_.active_posterior_id = posterior_->artifact.record.id;
  if (!remark.empty()) {
    absl::StrAppend(&info_.state_message, info_.state_message.empty() ? "" : "; ", remark);
  }
}

absl::Status TorchServedModel::ValidateCommon(const ArrayView& inputs,
                                              const std::vector<std::string>& scores) const {
  if (posterior_ == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(
        "model ", info_.name, "/", info_.version,
        " has no active posterior: fit one (FitPosterior, `laplace fit`) or activate one",
        remark_.empty() ? "" : absl::StrCat(" (", remark_, ")")));
  }
  LAPLACED_RETURN_IF_ERROR(
      CatchTorch("inputs", [&] { return CheckInputs("inputs", inputs, model_->manifest); }));
  if (inputs.shape[0] > options_.max_batch_size) {
    return FieldError("inputs.shape", absl::StrCat("expected at most ", options_.max_batch_size,
                                                   " examples in one request, got ",
                                                   inputs.shape[0], ": split the batch"));
  }
  return CheckOodScores("ood_scores", scores, model_->manifest.likelihood.kind,
                        posterior_->value.structure->has_directions());
}

absl::Status TorchServedModel::Validate(const ArrayView& inputs,
                                        const PredictOptions& options) const {
  LAPLACED_RETURN_IF_ERROR(ValidateCommon(inputs, options.ood_scores));
  if (options.prior_precision &&
      !(std::isfinite(*options.prior_precision) && *options.prior_precision > 0)) {
    return FieldError("prior_precision",
                      absl::StrCat("expected a finite number > 0, got ", *options.prior_precision));
  }
  if (options.prior_precision && !(*options.prior_precision >= kLeastPrecision &&
                                   *options.prior_precision <= kMostPrecision)) {
    return FieldError("prior_precision",
                      absl::StrCat("expected a number from ", kLeastPrecision, " to ",
                                   kMostPrecision, ", got ", *options.prior_precision));
  }
  return absl::OkStatus();
}

absl::Status TorchServedModel::Validate(const ArrayView& inputs,
                                        const ScoreOptions& options) const {
  return ValidateCommon(inputs, options.ood_scores);
}

std::vector<std::string> TorchServedModel::ScoreNames(
    const std::vector<std::string>& requested) const {
  if (!requested.empty()) return requested;
  return {posterior_->artifact.record.default_ood_score};
}

std::vector<ScoreValues> TorchServedModel::EmptyScores(
    const std::vector<std::string>& names) const {
  std::vector<ScoreValues> scores;
  for (const std::string& name : names) {
    ScoreValues values;
    values.name = name;
    for (const OodThresholdRecord& threshold : posterior_->artifact.record.ood_thresholds) {
      if (threshold.score != name) continue;
      values.threshold = threshold.threshold;
      values.target_id_rate = threshold.target_id_rate;
    }
    scores.push_back(std::move(values));
  }
  return scores;
}

absl::StatusOr<Prediction> TorchServedModel::Predict(const ArrayView& inputs,
                                                     const PredictOptions& options,
                                                     const ComputeContext& context) const {
  return CatchTorch("predict", [&]() -> absl::StatusOr<Prediction> {
    const at::Tensor raw = AliasArray(inputs);
    const Likelihood& likelihood = posterior_->likelihood;
    const Posterior posterior = posterior_->value.WithPriorPrecision(
        options.prior_precision.value_or(posterior_->value.prior_precision));
    const std::vector<std::string> names = ScoreNames(options.ood_scores);
    const int64_t block_size = BlockSize(model_->network);
    Prediction out;
    out.posterior_id = posterior_id();
    out.batch = raw.size(0);
    out.outputs = model_->network.n_outputs();
    out.likelihood = info_.likelihood;
    out.prior_precision = posterior.prior_precision;
    out.scores = EmptyScores(names);
    // One pass for both precisions; the predictive's covariance comes first.
    LinearizeRequest request = NeededFor(names, posterior_->ood_value.precisions());
    request.covariance_at.insert(request.covariance_at.begin(), posterior.precisions());
    const bool scores_share_it = request.covariance_at.size() == 1;
    for (int64_t begin = 0; begin < out.batch; begin += block_size) {
      LAPLACED_RETURN_IF_ERROR(context.Check());
      LAPLACED_ASSIGN_OR_RETURN(Linearized block,
                                LinearizeBlock(*model_, *posterior_, request, raw, begin,
                                               std::min(block_size, out.batch - begin)));
      Append(out.functional_mean, block.f);
      switch (likelihood.kind) {
        case Likelihood::Kind::kCategorical:
          AppendClassification(block, options, out);
          break;
        case Likelihood::Kind::kBernoulli:
          AppendLabels(block, options, out);
          break;
        case Likelihood::Kind::kGaussian:
          AppendRegression(block, likelihood, options, out);
          break;
      }
      // What is left is at the scores' own precision.
      if (scores_share_it) block.covariance.clear();
      AppendScores(out.scores, ComputeOodScores(names, ToOodInputs(block), likelihood));
    }
    return out;
  });
}

absl::StatusOr<Scores> TorchServedModel::Score(const ArrayView& inputs, const ScoreOptions& options,
                                               const ComputeContext& context) const {
  return CatchTorch("score", [&]() -> absl::StatusOr<Scores> {
    const at::Tensor raw = AliasArray(inputs);
    const std::vector<std::string> names = ScoreNames(options.ood_scores);
    const bool needs_posterior = NeedsPosterior(names);
    const int64_t block_size = needs_posterior ? BlockSize(model_->network) : kForwardBlock;
    Scores out{posterior_id(), EmptyScores(names)};
    const LinearizeRequest request = NeededFor(names, posterior_->ood_value.precisions());
    for (int64_t begin = 0; begin < raw.size(0); begin += block_size) {
      LAPLACED_RETURN_IF_ERROR(context.Check());
      const int64_t count = std::min(block_size, raw.size(0) - begin);
      OodInputs block;
      if (needs_posterior) {
        LAPLACED_ASSIGN_OR_RETURN(const Linearized linearized,
                                  LinearizeBlock(*model_, *posterior_, request, raw, begin, count));
        block = ToOodInputs(linearized);
      } else {
        const at::Tensor x = PadToPowerOfTwo(
            ToNetworkInput(raw.narrow(0, begin, count), model_->manifest, model_->network.dtype()));
        block.f = model_->network.Forward(x).narrow(0, 0, count).to(at::kDouble);
        LAPLACED_RETURN_IF_ERROR(CheckFinite(block.f, begin));
      }
      AppendScores(out.scores, ComputeOodScores(names, block, posterior_->likelihood));
    }
    return out;
  });
}

absl::Status TorchServedModel::WarmUp() const {
  return CatchTorch("warm-up", [&]() -> absl::Status {
    const at::Tensor no_directions =
        at::zeros({model_->network.n_parameters(), 0}, at::TensorOptions(model_->network.dtype()));
    LinearizeRequest request;
    if (posterior_ != nullptr) request.covariance_at = {posterior_->value.precisions()};
    for (int64_t size = 1; size <= kForwardBlock; size *= 2) {
      model_->network.Forward(model_->network.TrialInputs(size));
    }
    for (int64_t size = 1; size <= BlockSize(model_->network); size *= 2) {
      const at::Tensor x = model_->network.TrialInputs(size);
      if (posterior_ != nullptr) {
        LAPLACED_RETURN_IF_ERROR(posterior_->value.structure
                                     ->Linearize(posterior_->uncertain.network,
                                                 posterior_->uncertain.capture, x, request)
                                     .status());
      } else {
        LAPLACED_RETURN_IF_ERROR(
            ComputeJacobianProducts(model_->network, model_->capture, x, no_directions).status());
      }
    }
    return absl::OkStatus();
  });
}

}  // namespace laplaced
