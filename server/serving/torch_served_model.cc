#include "server/serving/torch_served_model.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "server/curvature/jacobian_products.h"
#include "server/laplace/joint_covariance.h"
#include "server/model/field_error.h"
#include "server/model/input_transform.h"
#include "server/model/torch_status.h"
#include "server/serving/example_blocks.h"
#include "server/serving/feature_blocks.h"
#include "server/serving/function_draws.h"
#include "server/serving/prediction_parts.h"
#include "server/serving/variance_plan.h"

namespace laplaced {
namespace {

// Whether an answer from draws needs all of V.
bool NeedsCovariance(const PredictOptions& options, Likelihood::Kind kind) {
  return options.return_covariance ||
         (kind == Likelihood::Kind::kCategorical && options.link_approx == LinkApprox::kMeanField);
}

// Precisions that posterior and prior are asked about beyond their own range say nothing.
absl::Status CheckRange(const std::string& field, const absl::optional<double>& value) {
  if (!value) return absl::OkStatus();
  if (!(std::isfinite(*value) && *value > 0)) {
    return FieldError(field, absl::StrCat("expected a finite number > 0, got ", *value));
  }
  if (!(*value >= kLeastPrecision && *value <= kMostPrecision)) {
    return FieldError(field, absl::StrCat("expected a number from ", kLeastPrecision, " to ",
                                          kMostPrecision, ", got ", *value));
  }
  return absl::OkStatus();
}

// Which of a posterior's parameter tensors belong to the last layer; empty if none does.
std::vector<bool> LastLayerMask(const Network& network, const std::vector<std::string>& names) {
  std::vector<bool> mask;
  bool any = false;
  for (const Parameter& p : network.parameters()) {
    mask.push_back(std::find(names.begin(), names.end(), p.name) != names.end());
    any |= mask.back();
  }
  return any ? mask : std::vector<bool>();
}

}  // namespace

TorchServedModel::TorchServedModel(std::shared_ptr<const LoadedModel> model,
                                   std::shared_ptr<const LoadedPosterior> posterior,
                                   const ModelHostOptions& options, int64_t memory_bytes,
                                   const std::string& remark)
    : model_(std::move(model)),
      posterior_(std::move(posterior)),
      options_(options),
      info_(model_->info),
      remark_(remark) {
  info_.memory_bytes = memory_bytes;
  if (posterior_ != nullptr) {
    info_.active_posterior_id = posterior_->artifact.record.id;
    last_layer_ = LastLayerMask(posterior_->uncertain.network, info_.last_layer_parameters);
    problem_ = ProblemOf(*posterior_, last_layer_);
  } else {
    problem_ = ProblemOf(model_->network, model_->capture);
  }
  if (!remark.empty()) {
    info_.lacks_posterior = true;
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
  return CheckOodScores("ood_scores", scores, posterior_->ood.knowledge);
}

absl::Status TorchServedModel::Validate(const ArrayView& inputs,
                                        const PredictOptions& options) const {
  LAPLACED_RETURN_IF_ERROR(ValidateCommon(inputs, options.ood_scores));
  LAPLACED_RETURN_IF_ERROR(CheckRange("prior_precision", options.prior_precision));
  LAPLACED_RETURN_IF_ERROR(CheckRange("temperature", options.temperature));
  const int64_t batch = inputs.shape[0];
  LAPLACED_RETURN_IF_ERROR(Plan(options, batch).status());
  if (!options.return_joint_covariance) return absl::OkStatus();
  return CheckJointCovariance("return_joint_covariance", posterior_->uncertain.network, batch);
}

absl::Status TorchServedModel::Validate(const ArrayView& inputs,
                                        const ScoreOptions& options) const {
  LAPLACED_RETURN_IF_ERROR(ValidateCommon(inputs, options.ood_scores));
  return Plan(options, inputs.shape[0]).status();
}

Batching TorchServedModel::BatchingOf(const ArrayView& inputs,
                                      const PredictOptions& options) const {
  Batching batching;
  const auto plan = Plan(options, inputs.shape[0]);
  if (!plan.ok()) return batching;
  batching.variance = *plan;
  const bool top_classes = plan->mode == VarianceMode::kTopClasses;
  // Draws are made anew for every computation, and the same for all rows.
  batching.rows = plan->mode == VarianceMode::kSampled
                      ? kForwardBlock
                      : JacobianBlock(model_->network, top_classes ? plan->top_classes
                                                                   : model_->network.n_outputs());
  batching.divisible = options.return_samples == 0 && !options.return_joint_covariance;
  return batching;
}

Batching TorchServedModel::BatchingOf(const ArrayView& inputs, const ScoreOptions& options) const {
  Batching batching;
  const auto plan = Plan(options, inputs.shape[0]);
  if (!plan.ok()) return batching;
  batching.variance = *plan;
  const bool jacobians =
      plan->mode == VarianceMode::kExact || plan->mode == VarianceMode::kLastLayer;
  batching.rows = jacobians ? JacobianBlock(model_->network) : kForwardBlock;
  batching.divisible = true;
  return batching;
}

std::vector<std::string> TorchServedModel::ScoreNames(const std::vector<std::string>& requested,
                                                      VarianceMode mode) const {
  if (!requested.empty()) return requested;
  const std::string& usual = posterior_->artifact.record.default_ood_score;
  // Nobody asked for it, so a mode that cannot have it goes without.
  if (!CheckOodScoresIn(mode, "ood_scores", {usual}).ok()) return {};
  return {usual};
}

absl::StatusOr<VarianceReport> TorchServedModel::Plan(const PredictOptions& options,
                                                      int64_t batch) const {
  return PlanVariance(
      options,
      {posterior_->likelihood.kind, ScoreNames(options.ood_scores, options.variance_mode),
       !options.ood_scores.empty()},
      Problem(batch));
}

absl::StatusOr<VarianceReport> TorchServedModel::Plan(const ScoreOptions& options,
                                                      int64_t batch) const {
  return PlanVariance(
      options,
      {posterior_->likelihood.kind, ScoreNames(options.ood_scores, VarianceMode::kExact), true},
      Problem(batch));
}

VarianceProblem TorchServedModel::Problem(int64_t batch) const {
  VarianceProblem problem = problem_;
  problem.batch = batch;
  return problem;
}

std::vector<ScoreValues> TorchServedModel::EmptyScores(const std::vector<std::string>& names,
                                                       VarianceMode mode) const {
  std::vector<ScoreValues> scores;
  for (const std::string& name : names) {
    ScoreValues values;
    values.name = name;
    // Thresholds were calibrated on exact scores.
    const bool comparable = mode == VarianceMode::kExact || !NeedsPosterior({name});
    for (const OodThresholdRecord& threshold : posterior_->artifact.record.ood_thresholds) {
      if (!comparable || threshold.score != name) continue;
      values.calibration = std::shared_ptr<const OodThresholdRecord>(posterior_, &threshold);
    }
    scores.push_back(std::move(values));
  }
  return scores;
}

absl::StatusOr<at::Tensor> TorchServedModel::Features(const std::vector<std::string>& scores,
                                                      const at::Tensor& raw, int64_t first,
                                                      const ComputeContext& context) const {
  if (!NeedsFeatures(scores)) return at::Tensor();
  LAPLACED_ASSIGN_OR_RETURN(
      const FeatureForward forward,
      FeaturesOfRows(*model_, posterior_->ood.knowledge.features->layer(), raw, first, context));
  return forward.features;
}

// Everything that the parts of one request share.
struct TorchServedModel::Job {
  const at::Tensor raw;  // the inputs as they came
  const std::vector<std::string> scores;
  const VarianceReport plan;
  const DrawJob draws;

  std::vector<bool> Parameters(const TorchServedModel& model) const {
    return plan.mode == VarianceMode::kLastLayer ? model.last_layer_ : std::vector<bool>();
  }
};

absl::StatusOr<Prediction> TorchServedModel::Predict(const ArrayView& inputs,
                                                     const PredictOptions& options,
                                                     const ComputeContext& context) const {
  return CatchTorch("predict", [&]() -> absl::StatusOr<Prediction> {
    const Posterior posterior =
        posterior_->value
            .WithPriorPrecision(options.prior_precision.value_or(posterior_->value.prior_precision))
            .WithTemperature(options.temperature.value_or(posterior_->value.temperature));
    LAPLACED_ASSIGN_OR_RETURN(const VarianceReport plan, Plan(options, inputs.shape[0]));
    const Job job{AliasArray(inputs),
                  ScoreNames(options.ood_scores, plan.mode),
                  plan,
                  {*model_, *posterior_, context, options.seed, plan.samples}};
    Prediction out;
    out.posterior_id = posterior_id();
    out.batch = inputs.shape[0];
    out.outputs = model_->network.n_outputs();
    out.likelihood = info_.likelihood;
    out.prior_precision = posterior.prior_precision;
    out.temperature = posterior.temperature;
    out.variance = plan;
    out.scores = EmptyScores(job.scores, plan.mode);
    LAPLACED_RETURN_IF_ERROR(plan.mode == VarianceMode::kSampled
                                 ? PredictFromDraws(job, posterior, options, out)
                                 : PredictFromJacobians(job, posterior, options, out));
    if (options.return_joint_covariance) {
      LAPLACED_RETURN_IF_ERROR(context.Check());
      const Network& network = posterior_->uncertain.network;
      LAPLACED_ASSIGN_OR_RETURN(
          const at::Tensor joint,
          JointCovariance(*posterior.structure, network, posterior_->uncertain.capture,
                          PaddedBlocks(*model_, job.raw, JacobianBlock(network)), out.batch,
                          posterior.precisions(), job.Parameters(*this)));
      Append(out.joint_covariance, joint);
    }
    if (options.return_samples > 0) {
      const at::Tensor f =
          at::from_blob(out.functional_mean.data(), {out.batch, out.outputs}, at::kFloat);
      LAPLACED_ASSIGN_OR_RETURN(out.function_samples,
                                DrawFunctions(job.draws, posterior, job.Parameters(*this), job.raw,
                                              f, options.return_samples));
    }
    return out;
  });
}

absl::Status TorchServedModel::PredictFromJacobians(const Job& job, const Posterior& posterior,
                                                    const PredictOptions& options,
                                                    Prediction& out) const {
  // One pass for both precisions; the predictive's covariance comes first.
  LinearizeRequest request = NeededFor(job.scores, posterior_->ood_value.precisions());
  request.covariance_at.insert(request.covariance_at.begin(), posterior.precisions());
  request.parameters = job.Parameters(*this);
  const bool scores_share_it = request.covariance_at.size() == 1;
  const bool top_classes = job.plan.mode == VarianceMode::kTopClasses;
  const int64_t block_size =
      JacobianBlock(model_->network, top_classes ? job.plan.top_classes : out.outputs);
  for (int64_t begin = 0; begin < out.batch; begin += block_size) {
    LAPLACED_RETURN_IF_ERROR(job.draws.context.Check());
    const int64_t count = std::min(block_size, out.batch - begin);
    if (top_classes) {
      const at::Tensor f = ForwardBlock(*model_, job.raw, begin, count);
      request.outputs = std::get<1>(f.topk(job.plan.top_classes, 1));
    }
    LAPLACED_ASSIGN_OR_RETURN(Linearized block,
                              LinearizeBlock(*model_, *posterior_, request, job.raw, begin, count));
    AppendPrediction(FromLinearized(block, request.outputs), posterior_->likelihood, options, out);
    // What is left is at the scores' own precision.
    if (scores_share_it) block.covariance.clear();
    OodInputs inputs = ToOodInputs(block);
    LAPLACED_ASSIGN_OR_RETURN(inputs.features, Features(job.scores, job.raw.narrow(0, begin, count),
                                                        begin, job.draws.context));
    AppendScores(out.scores, ComputeOodScores(job.scores, inputs, posterior_->likelihood,
                                              posterior_->ood.knowledge));
  }
  return absl::OkStatus();
}

absl::Status TorchServedModel::PredictFromDraws(const Job& job, const Posterior& posterior,
                                                const PredictOptions& options,
                                                Prediction& out) const {
  const Likelihood& likelihood = posterior_->likelihood;
  const bool covariance = NeedsCovariance(options, likelihood.kind);
  const int64_t group = DrawGroup(out.outputs, covariance);
  for (int64_t begin = 0; begin < out.batch; begin += group) {
    const at::Tensor raw = job.raw.narrow(0, begin, std::min(group, out.batch - begin));
    LAPLACED_ASSIGN_OR_RETURN(const at::Tensor f, Outputs(job.draws, raw, begin));
    LAPLACED_ASSIGN_OR_RETURN(const DrawMoments moments,
                              Draw(job.draws, posterior, raw, f, begin, covariance));
    const OutputGaussian gaussian =
        FromDraws(f, moments, job.plan.samples, likelihood.kind, covariance);
    AppendPrediction(gaussian, likelihood, options, out);
    LAPLACED_ASSIGN_OR_RETURN(OodInputs inputs,
                              DrawForScores(job.draws, job.scores, raw, f, begin));
    LAPLACED_ASSIGN_OR_RETURN(inputs.features, Features(job.scores, raw, begin, job.draws.context));
    AppendScores(out.scores,
                 ComputeOodScores(job.scores, inputs, likelihood, posterior_->ood.knowledge));
  }
  return absl::OkStatus();
}

absl::StatusOr<Scores> TorchServedModel::Score(const ArrayView& inputs, const ScoreOptions& options,
                                               const ComputeContext& context) const {
  return CatchTorch("score", [&]() -> absl::StatusOr<Scores> {
    LAPLACED_ASSIGN_OR_RETURN(const VarianceReport plan, Plan(options, inputs.shape[0]));
    const Job job{AliasArray(inputs),
                  ScoreNames(options.ood_scores, VarianceMode::kExact),
                  plan,
                  {*model_, *posterior_, context, options.seed, plan.samples}};
    Scores out{posterior_id(), EmptyScores(job.scores, plan.mode), plan};
    const int64_t batch = job.raw.size(0);
    const bool jacobians =
        plan.mode == VarianceMode::kExact || plan.mode == VarianceMode::kLastLayer;
    const int64_t step =
        jacobians ? JacobianBlock(model_->network) : DrawGroup(model_->network.n_outputs(), false);
    LinearizeRequest request = NeededFor(job.scores, posterior_->ood_value.precisions());
    request.parameters = job.Parameters(*this);
    for (int64_t begin = 0; begin < batch; begin += step) {
      LAPLACED_RETURN_IF_ERROR(context.Check());
      const int64_t count = std::min(step, batch - begin);
      OodInputs block;
      if (jacobians) {
        LAPLACED_ASSIGN_OR_RETURN(
            const Linearized linearized,
            LinearizeBlock(*model_, *posterior_, request, job.raw, begin, count));
        block = ToOodInputs(linearized);
        LAPLACED_ASSIGN_OR_RETURN(
            block.features, Features(job.scores, job.raw.narrow(0, begin, count), begin, context));
      } else {
        const at::Tensor raw = job.raw.narrow(0, begin, count);
        FeatureForward forward;
        if (NeedsFeatures(job.scores)) {  // one pass for both
          LAPLACED_ASSIGN_OR_RETURN(
              forward, FeaturesOfRows(*model_, posterior_->ood.knowledge.features->layer(), raw,
                                      begin, context));
        } else {
          LAPLACED_ASSIGN_OR_RETURN(forward.f, Outputs(job.draws, raw, begin));
        }
        LAPLACED_ASSIGN_OR_RETURN(block,
                                  DrawForScores(job.draws, job.scores, raw, forward.f, begin));
        block.features = forward.features;
      }
      AppendScores(out.scores, ComputeOodScores(job.scores, block, posterior_->likelihood,
                                                posterior_->ood.knowledge));
    }
    return out;
  });
}

absl::Status TorchServedModel::WarmUp() const {
  return CatchTorch("warm-up", [&]() -> absl::Status {
    const Network& network = model_->network;
    for (int64_t size = 1; size <= kForwardBlock; size *= 2) {
      network.Forward(network.TrialInputs(size));
    }
    // What a request that leaves the mode open will run.
    const VarianceMode mode = ChooseVarianceMode(problem_, false);
    if (mode == VarianceMode::kSampled) {
      if (posterior_ == nullptr) return absl::OkStatus();
      const int64_t most = ForwardModeBlock(network, model_->capture);
      for (int64_t size = 1; size <= most; size *= 2) {
        LAPLACED_RETURN_IF_ERROR(posterior_->sampler->ForEachDraw(
            *posterior_->value.structure, posterior_->value.precisions(),
            {network.TrialInputs(size)}, {0, 1, {}}, [](int64_t, size_t, const at::Tensor&) {},
            [] { return absl::OkStatus(); }));
      }
      return absl::OkStatus();
    }
    const at::Tensor no_directions =
        at::zeros({network.n_parameters(), 0}, at::TensorOptions(network.dtype()));
    LinearizeRequest request;
    if (posterior_ != nullptr) request.covariance_at = {posterior_->value.precisions()};
    for (int64_t size = 1; size <= JacobianBlock(network); size *= 2) {
      const at::Tensor x = network.TrialInputs(size);
      if (posterior_ != nullptr) {
        LAPLACED_RETURN_IF_ERROR(posterior_->value.structure
                                     ->Linearize(posterior_->uncertain.network,
                                                 posterior_->uncertain.capture, x, request)
                                     .status());
      } else {
        LAPLACED_RETURN_IF_ERROR(
            ComputeJacobianProducts(network, model_->capture, x, no_directions).status());
      }
    }
    return absl::OkStatus();
  });
}

}  // namespace laplaced
