#include "server/laplace/fit.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/data/sampler.h"
#include "server/laplace/fit_check.h"
#include "server/laplace/kronecker_fit.h"
#include "server/laplace/last_layer_fit.h"
#include "server/laplace/stopwatch.h"
#include "server/model/parameter_selection.h"
#include "server/model/torch_status.h"

namespace laplaced {
namespace {

// Validation examples that candidate precisions are compared on unless the user says otherwise,
// with a diagonal residual: there every candidate costs a contraction of its own.
constexpr int64_t kDiagonalValidationExamples = 1000;

// Turns progress of one phase into progress of the whole. Shares are rough and only for display.
class PhaseProgress {
 public:
  PhaseProgress(const FitProgressFn& progress, std::string phase, double begin, double end)
      : progress_(progress), phase_(std::move(phase)), begin_(begin), end_(end) {}

  absl::Status operator()(int64_t done, int64_t total) const {
    if (!progress_) return absl::OkStatus();
    const double share =
        total > 0 ? std::min(1.0, static_cast<double>(done) / static_cast<double>(total)) : 0;
    return progress_(phase_, done, total, begin_ + (end_ - begin_) * share);
  }

 private:
  const FitProgressFn& progress_;
  std::string phase_;
  double begin_, end_;
};

PriorTerms MakePriorTerms(const Network& network, const std::vector<double>& scale) {
  PriorTerms terms;
  for (size_t i = 0; i < scale.size(); ++i) {
    const at::Tensor& value = network.parameters()[i].value;
    terms.weighted_norm_squared +=
        scale[i] * value.detach().to(at::kDouble).square().sum().item<double>();
    terms.log_scale_sum += static_cast<double>(value.numel()) * std::log(scale[i]);
  }
  return terms;
}

absl::StatusOr<std::shared_ptr<const FittedCurvature>> FitCurvature(
    const EmpiricalRisk& risk, const CapturePlan& plan, const FitOptions& options,
    const FitProgressFn& progress, LanczosCheckpoint* checkpoint, FitResult* result) {
  const PhaseProgress directions(progress, "directions", 0.05, 0.5);
  const PhaseProgress curvature(progress, "curvature", 0.5, 0.7);
  switch (options.structure) {
    case StructureKind::kLowRank:
      return FitLowRank(risk, plan, options.low_rank, {directions, curvature, checkpoint},
                        &result->cost, &result->warnings);
    case StructureKind::kKfac: {
      const LowRankOptions& sizes = options.low_rank;
      const KroneckerOptions kronecker{sizes.direction_batch_size,
                                       sizes.curvature_batch_size,
                                       sizes.debiasing != Debiasing::kNone,
                                       options.kfac_exact,
                                       sizes.curvature,
                                       sizes.seed};
      const Stopwatch time;
      auto fitted = FitKronecker(risk, plan, kronecker, directions, curvature);
      result->cost.curvature_seconds = time.Seconds();
      return fitted;
    }
    case StructureKind::kLastLayer: {
      const Stopwatch time;
      auto fitted = FitLastLayer(risk, plan, options.low_rank.curvature,
                                 PhaseProgress(progress, "curvature", 0.05, 0.7));
      result->cost.curvature_seconds = time.Seconds();
      return fitted;
    }
  }
  return absl::InternalError("unknown structure");
}

// Everything after the curvature.
class Finish {
 public:
  Finish(EmpiricalRisk& risk, const CapturePlan& plan, const Dataset& validation,
         const FitOptions& options, const FitProgressFn& progress, const FitWatchers& watchers,
         FitResult& result)
      : risk_(risk),
        plan_(plan),
        validation_(validation),
        options_(options),
        progress_(progress),
        on_validation_(watchers.on_validation),
        result_(result) {}

  // REQUIRES: result has fitted, mean_train_loss and posterior.n_data; `previous` is the prior
  // precision to keep with methods that do not choose one, if any.
  absl::Status Run(absl::optional<double> previous, absl::optional<double> previous_ood) {
    const std::vector<double> scale = PriorScale(risk_.network, risk_.manifest);
    terms_.mean_loss = result_.mean_train_loss;
    terms_.prior = MakePriorTerms(risk_.network, scale);
    terms_.n_outputs = risk_.network.n_outputs();
    terms_.sigma_noise = risk_.likelihood.sigma_noise;
    absl::optional<double> decay;  // n_data * weight_decay, with what updates added
    if (risk_.manifest.weight_decay > 0) {
      decay = static_cast<double>(result_.posterior.n_data) * risk_.manifest.weight_decay;
    }
    result_.posterior.temperature = options_.temperature;
    result_.posterior.structure = result_.fitted->MakeStructure(scale);
    result_.posterior.prior_precision =
        previous.value_or(options_.prior_precision.value_or(decay.value_or(1)));

    const bool noise = Gaussian() && result_.noise_method == NoiseMethod::kEvidence;
    const bool prior = result_.prior_method == PriorMethod::kEvidence;
    EvidenceSearch search;
    if (noise || prior) {
      search = MaximiseEvidence(result_.posterior, terms_, prior, noise);
      if (!search.warning.empty()) result_.warnings.push_back(search.warning);
      result_.posterior.prior_precision = search.prior_precision;
    }
    if (noise) SetNoise(search.sigma_noise, scale);

    std::vector<double> grid = PriorGrid(decay.value_or(1.0));
    for (const double delta : grid) {
      result_.prior_candidates.push_back(
          {delta, 0, Evidence(result_.posterior.WithPriorPrecision(delta), terms_)});
    }
    absl::optional<double> ood = previous_ood;
    if (options_.ood_prior_precision) ood = options_.ood_prior_precision;
    if (!ood) ood = decay;
    if (validation_.total() > 0) {
      const Stopwatch time;
      // Where candidates see only part of the data, scores still see all of it.
      const bool apart = GridLimit() < Limit();
      LAPLACED_RETURN_IF_ERROR(Validate(grid, apart ? absl::nullopt : ood));
      if (apart && ood) LAPLACED_RETURN_IF_ERROR(Validate({}, ood));
      if (result_.prior_method == PriorMethod::kValidation) {
        std::string warning;
        const size_t best = BestByValidation(result_.prior_candidates, &warning);
        result_.posterior.prior_precision = result_.prior_candidates[best].prior_precision;
        if (!warning.empty()) result_.warnings.push_back(warning);
      }
      result_.ood_prior_precision = ood.value_or(result_.posterior.prior_precision);
      // Without a weight decay the precision for scores is the one just chosen: another pass.
      if (!ood) LAPLACED_RETURN_IF_ERROR(Validate({}, result_.ood_prior_precision));
      result_.validation_seconds = time.Seconds();
    }
    result_.ood_prior_precision = ood.value_or(result_.posterior.prior_precision);
    if (prior) {
      result_.prior_candidates.insert(result_.prior_candidates.end(), search.steps.begin(),
                                      search.steps.end());
    }

    if (Gaussian()) result_.sigma_noise = risk_.likelihood.sigma_noise;
    result_.report = result_.fitted->Report();
    result_.parameter_norm_squared =
        risk_.network.FlatParameters().to(at::kDouble).square().sum().item<double>();
    result_.log_marginal_likelihood = Evidence(result_.posterior, terms_);
    result_.effective_parameters = result_.posterior.EffectiveParameters();
    return absl::OkStatus();
  }

 private:
  bool Gaussian() const { return risk_.likelihood.kind == Likelihood::Kind::kGaussian; }

  // From the noise that loss and curvature were measured with to another.
  void SetNoise(double sigma, const std::vector<double>& scale) {
    const double old = risk_.likelihood.sigma_noise, ratio = old * old / (sigma * sigma);
    const auto c = static_cast<double>(terms_.n_outputs);
    result_.mean_train_loss =
        (result_.mean_train_loss - 0.5 * c * std::log(2 * M_PI * old * old)) * ratio +
        0.5 * c * std::log(2 * M_PI * sigma * sigma);
    risk_.likelihood.sigma_noise = sigma;
    terms_.mean_loss = result_.mean_train_loss;
    terms_.sigma_noise = sigma;
    result_.fitted = result_.fitted->ScaledBy(ratio);
    result_.posterior.structure = result_.fitted->MakeStructure(scale);
  }

  // Validation examples to use, and those to compare candidates on.
  int64_t Limit() const {
    const int64_t most = options_.max_validation_examples;
    return most > 0 ? std::min(most, validation_.total()) : validation_.total();
  }
  int64_t GridLimit() const {
    const bool expensive = DiagonalResidual() && options_.max_validation_examples == 0;
    return expensive ? std::min(kDiagonalValidationExamples, Limit()) : Limit();
  }

  // One pass over the validation data: NLL at every precision of `grid`, into prior_candidates, and
  // if `ood` is known, everything for scores.
  absl::Status Validate(const std::vector<double>& grid, absl::optional<double> ood) {
    const int64_t size = grid.empty() ? Limit() : GridLimit();
    const Dataset chosen = size == validation_.total()
                               ? validation_
                               : validation_.Select(validation_.Here(DisjointBatches(
                                     validation_.total(), {size}, options_.low_rank.seed)[0]));
    if (!grid.empty()) result_.validation_count = size;
    LinearizeRequest request;
    for (const double delta : grid) {
      request.variance_at.push_back(result_.posterior.WithPriorPrecision(delta).precisions());
    }
    Posterior scored = result_.posterior;
    if (ood && on_validation_) {
      scored = result_.posterior.WithPriorPrecision(*ood);
      request.covariance_at = {scored.precisions()};
      request.outside = true;
    }
    at::Tensor sums = at::zeros({static_cast<int64_t>(grid.size()) + 1}, at::kDouble);
    const auto n_candidates = static_cast<int64_t>(grid.size());  // after them: the plain loss
    const PhaseProgress progress(progress_, "validation", 0.7, 0.95);
    const int64_t chunk = std::min(risk_.chunk_size, ExamplesPerStep(risk_.network));
    for (int64_t begin = 0; begin < chosen.size(); begin += chunk) {
      const Dataset part = chosen.Slice(begin, std::min(begin + chunk, chosen.size()));
      const at::Tensor x = risk_.NetworkInput(part.inputs);
      LAPLACED_ASSIGN_OR_RETURN(const Linearized batch,
                                scored.structure->Linearize(risk_.network, plan_, x, request));
      sums[n_candidates] += risk_.likelihood.Loss(batch.f, part.targets).sum();
      for (int64_t i = 0; i < n_candidates; ++i) {
        sums[i] += PredictiveLoss(risk_.likelihood, batch.f, batch.variance[i], part.targets).sum();
      }
      if (!request.covariance_at.empty()) {
        LAPLACED_RETURN_IF_ERROR(on_validation_(risk_.likelihood, scored, x, batch));
      }
      LAPLACED_RETURN_IF_ERROR(progress(begin + part.size(), chosen.size()));
    }
    LAPLACED_RETURN_IF_ERROR(risk_.ranks->Sum(sums));
    if (!sums.isfinite().all().item<bool>()) {
      return absl::FailedPreconditionError("the loss on the validation data is not finite");
    }
    sums = sums / static_cast<double>(size);
    if (!grid.empty()) result_.validation_nll_map = sums[n_candidates].item<double>();
    for (int64_t i = 0; i < n_candidates; ++i) {
      result_.prior_candidates[i].validation_nll = sums[i].item<double>();
    }
    return absl::OkStatus();
  }

  bool DiagonalResidual() const {
    return options_.structure == StructureKind::kLowRank &&
           options_.low_rank.residual == ResidualKind::kDiagonal;
  }

  EmpiricalRisk& risk_;
  const CapturePlan& plan_;
  const Dataset& validation_;
  const FitOptions& options_;
  const FitProgressFn& progress_;
  const ValidationFn& on_validation_;
  FitResult& result_;
  EvidenceTerms terms_;
};

// Mean loss, and the noise of a Gaussian likelihood if it is not the manifest's.
absl::Status MeasureLoss(EmpiricalRisk& risk, const FitOptions& options,
                         const FitProgressFn& progress, const ForwardFn& on_training,
                         FitResult& result) {
  double& sigma = risk.likelihood.sigma_noise;
  const bool gaussian = risk.likelihood.kind == Likelihood::Kind::kGaussian;
  if (gaussian && result.noise_method == NoiseMethod::kGiven) sigma = *options.sigma_noise;
  const bool from_data = gaussian && (result.noise_method == NoiseMethod::kData ||
                                      result.noise_method == NoiseMethod::kEvidence);
  if (from_data) sigma = 1;
  LAPLACED_ASSIGN_OR_RETURN(
      result.mean_train_loss,
      risk.MeanLoss(PhaseProgress(progress, "training loss", 0, 0.05), on_training));
  if (from_data) {
    const auto c = static_cast<double>(risk.network.n_outputs());
    const double squares = 2 * (result.mean_train_loss - 0.5 * c * std::log(2 * M_PI));
    sigma = std::sqrt(std::max(squares, 0.0) / c);
    if (!(sigma > 1e-12)) {
      return absl::FailedPreconditionError(
          "the training residuals are all zero: the noise cannot be taken from them (give "
          "options.sigma_noise)");
    }
    result.mean_train_loss = 0.5 * c * (1 + std::log(2 * M_PI * sigma * sigma));
  }
  return absl::OkStatus();
}

absl::Status RemarkOnSharedExamples(const EmpiricalRisk& risk, const Dataset& validation,
                                    FitResult& result) {
  if (validation.total() == 0) return absl::OkStatus();
  LAPLACED_ASSIGN_OR_RETURN(const at::Tensor training, risk.ranks->Gather(InputHashes(risk.data)));
  LAPLACED_ASSIGN_OR_RETURN(const at::Tensor held_out, risk.ranks->Gather(InputHashes(validation)));
  const int64_t shared = SharedHashes(training, held_out);
  if (100 * shared > validation.total()) {
    result.warnings.push_back(absl::StrCat(
        shared, " of ", validation.total(),
        " validation examples are in the training data too: the tuned precision and the "
        "OOD thresholds are optimistic"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ParametersOf(const Network& network,
                                                      const FitOptions& options) {
  return CatchTorch("parameters", [&]() -> absl::StatusOr<std::vector<std::string>> {
    if (options.structure == StructureKind::kLastLayer) return LastLayerParameters(network);
    return MatchParameters(network, options.parameters);
  });
}

std::vector<double> PriorScale(const Network& network, const Manifest& manifest) {
  const bool differs = manifest.weight_decay > 0 && manifest.bias_weight_decay > 0;
  const double of_biases = differs ? manifest.bias_weight_decay / manifest.weight_decay : 1;
  std::vector<double> scale;
  for (const Parameter& p : network.parameters()) {
    scale.push_back(p.value.dim() <= 1 ? of_biases : 1);
  }
  return scale;
}

PriorMethod PriorMethodOf(const FitOptions& options, bool has_validation) {
  if (options.prior_method) return *options.prior_method;
  if (options.prior_precision) return PriorMethod::kGiven;
  return has_validation ? PriorMethod::kValidation : PriorMethod::kWeightDecay;
}

NoiseMethod NoiseMethodOf(const FitOptions& options) {
  if (options.noise_method) return *options.noise_method;
  return options.sigma_noise ? NoiseMethod::kGiven : NoiseMethod::kManifest;
}

absl::StatusOr<FitResult> RunFit(EmpiricalRisk risk, const CapturePlan& plan,
                                 const Dataset& validation, const FitOptions& options,
                                 const FitProgressFn& progress, const FitWatchers& watchers) {
  return CatchTorch("fit", [&]() -> absl::StatusOr<FitResult> {
    FitResult result;
    result.prior_method = PriorMethodOf(options, validation.total() > 0);
    result.noise_method = NoiseMethodOf(options);
    LAPLACED_RETURN_IF_ERROR(RemarkOnSharedExamples(risk, validation, result));
    LAPLACED_RETURN_IF_ERROR(MeasureLoss(risk, options, progress, watchers.on_training, result));
    if (watchers.after_training) LAPLACED_RETURN_IF_ERROR(watchers.after_training());
    LAPLACED_ASSIGN_OR_RETURN(
        result.fitted, FitCurvature(risk, plan, options, progress, watchers.checkpoint, &result));
    result.posterior.n_data = NumData(risk);
    LAPLACED_RETURN_IF_ERROR(Finish(risk, plan, validation, options, progress, watchers, result)
                                 .Run(absl::nullopt, absl::nullopt));
    return result;
  });
}

absl::StatusOr<FitResult> RunUpdate(EmpiricalRisk risk, const CapturePlan& plan,
                                    const Dataset& validation, const FitOptions& options,
                                    const UpdateStart& start, const FitProgressFn& progress,
                                    const FitWatchers& watchers) {
  return CatchTorch("update", [&]() -> absl::StatusOr<FitResult> {
    FitResult result;
    result.prior_method = PriorMethodOf(options, validation.total() > 0);
    result.noise_method = NoiseMethodOf(options);
    LAPLACED_RETURN_IF_ERROR(RemarkOnSharedExamples(risk, validation, result));
    if (risk.likelihood.kind == Likelihood::Kind::kGaussian) {
      risk.likelihood.sigma_noise = start.sigma_noise;
    }
    LAPLACED_ASSIGN_OR_RETURN(
        const double added_loss,
        risk.MeanLoss(PhaseProgress(progress, "training loss", 0, 0.05), watchers.on_training));
    if (watchers.after_training) LAPLACED_RETURN_IF_ERROR(watchers.after_training());
    result.posterior.n_data = start.n_data + risk.size();
    const double share =
        static_cast<double>(risk.size()) / static_cast<double>(result.posterior.n_data);
    result.mean_train_loss = start.mean_train_loss + (added_loss - start.mean_train_loss) * share;
    const Stopwatch time;
    // Random numbers that no earlier data had.
    CurvatureSpec curvature = options.low_rank.curvature;
    curvature.seed += static_cast<uint64_t>(start.n_data);
    LAPLACED_ASSIGN_OR_RETURN(
        result.fitted, start.fitted->WithData(risk, plan, curvature,
                                              PhaseProgress(progress, "curvature", 0.05, 0.7)));
    result.cost.curvature_seconds = time.Seconds();
    LAPLACED_RETURN_IF_ERROR(Finish(risk, plan, validation, options, progress, watchers, result)
                                 .Run(start.prior_precision, start.ood_prior_precision));
    return result;
  });
}

}  // namespace laplaced
