#include "server/laplace/fit.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/curvature/ggn_operator.h"
#include "server/data/sampler.h"
#include "server/linalg/lanczos.h"
#include "server/model/field_error.h"
#include "server/model/torch_status.h"

namespace laplaced {
namespace {

class Stopwatch {
 public:
  double Seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

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

absl::Status CheckData(const EmpiricalRisk& risk, const std::string& field, const Dataset& data) {
  const std::vector<int64_t> example(data.inputs.sizes().begin() + 1, data.inputs.sizes().end());
  if (example != risk.manifest.input_shape) {
    return FieldError(field,
                      absl::StrCat("examples have shape ", ShapeString(example), ", expected ",
                                   ShapeString(risk.manifest.input_shape), " (the model's input)"));
  }
  if (data.inputs.scalar_type() == at::kByte && !risk.manifest.accepts_uint8) {
    return FieldError(field,
                      "inputs are uint8, expected float32 or float64: the model's manifest does "
                      "not say how to scale raw "
                      "pixels (input.uint8_scale)");
  }
  return risk.likelihood.CheckTargets(field, data.targets, risk.network.n_outputs());
}

absl::Status CheckPositive(const char* field, const absl::optional<double>& value) {
  if (value && !(std::isfinite(*value) && *value > 0)) {
    return FieldError(field, absl::StrCat("expected a finite number > 0, got ", *value));
  }
  return absl::OkStatus();
}

int64_t NumData(const EmpiricalRisk& risk) {
  return risk.manifest.n_data > 0 ? risk.manifest.n_data : risk.size();
}

// n_data * weight_decay, if the manifest states a weight decay.
absl::optional<double> WeightDecayPrecision(const EmpiricalRisk& risk) {
  if (!(risk.manifest.weight_decay > 0)) return absl::nullopt;
  return static_cast<double>(NumData(risk)) * risk.manifest.weight_decay;
}

// Tuning needs T and G of the validation set at once; this many examples of them fit into the
// memory set aside for it.
int64_t ValidationLimit(const EmpiricalRisk& risk, const FitOptions& options) {
  constexpr int64_t kBytes = int64_t{1} << 30;
  const int64_t c = risk.network.n_outputs();
  const int64_t fits = std::max<int64_t>(1, kBytes / (c * (4 * options.rank + 8 * c + 8)));
  return options.max_validation_examples > 0 ? std::min(fits, options.max_validation_examples)
                                             : fits;
}

}  // namespace

absl::Status CheckFit(const EmpiricalRisk& risk, const Dataset& validation,
                      const FitOptions& options) {
  LAPLACED_RETURN_IF_ERROR(CheckData(risk, "train_dataset_id", risk.data));
  if (validation.size() > 0)
    LAPLACED_RETURN_IF_ERROR(CheckData(risk, "validation_dataset_id", validation));
  const int64_t p = risk.network.n_parameters(), n = risk.size();
  if (options.rank < 1 || options.rank > p) {
    return FieldError(
        "options.rank",
        absl::StrCat("expected 1 to ", p, " (the model's parameters), got ", options.rank));
  }
  // Lanczos keeps rank + 12 vectors in double precision; the directions stand beside them in the
  // network's.
  const int64_t vector_bytes = 8 * p;
  const int64_t most_rank = (options.memory_limit_bytes / vector_bytes - 12) / 2;
  if (options.memory_limit_bytes > 0 && options.rank > most_rank) {
    return FieldError(
        "options.rank",
        absl::StrFormat(
            "%d directions of %d parameters need about %.1f GiB of memory, a fit may use %.1f GiB; "
            "at most %d would fit",
            options.rank, p, (2 * options.rank + 12) * vector_bytes / 1073741824.0,
            options.memory_limit_bytes / 1073741824.0, std::max<int64_t>(most_rank, 0)));
  }
  const bool two = options.debiasing == Debiasing::kTwoBatch;
  if (const int64_t least = two ? 1 : 2; options.direction_batch_size < least) {
    return FieldError(
        "options.direction_batch_size",
        absl::StrCat("expected at least ", least, ", got ", options.direction_batch_size));
  }
  if (two && options.curvature_batch_size < 2) {
    return FieldError("options.curvature_batch_size",
                      absl::StrCat("expected at least 2, got ", options.curvature_batch_size));
  }
  const int64_t needed = options.direction_batch_size + (two ? options.curvature_batch_size : 0);
  if (needed > n) {
    return FieldError(
        two ? "options.curvature_batch_size" : "options.direction_batch_size",
        absl::StrCat(
            "the batches need ", needed, " distinct examples (direction_batch_size ",
            options.direction_batch_size,
            two ? absl::StrCat(" + curvature_batch_size ", options.curvature_batch_size) : "",
            "), the training data has ", n));
  }
  LAPLACED_RETURN_IF_ERROR(CheckPositive("options.prior_precision", options.prior_precision));
  LAPLACED_RETURN_IF_ERROR(
      CheckPositive("options.ood_prior_precision", options.ood_prior_precision));
  if (!(options.lanczos_tolerance > 0 && options.lanczos_tolerance < 1)) {
    return FieldError("options.lanczos_tolerance",
                      absl::StrCat("expected a number in (0, 1), got ", options.lanczos_tolerance));
  }
  if (!options.prior_precision && validation.size() == 0 && !WeightDecayPrecision(risk)) {
    return FieldError("options.prior_precision",
                      "is required, because the model's manifest states no weight_decay and there "
                      "is no validation data to "
                      "tune it on");
  }
  return absl::OkStatus();
}

absl::StatusOr<FitResult> RunFit(const EmpiricalRisk& risk, const CapturePlan& plan,
                                 const Dataset& validation, const FitOptions& options,
                                 const FitProgressFn& progress) {
  return CatchTorch("fit", [&]() -> absl::StatusOr<FitResult> {
    FitResult result;
    const bool two = options.debiasing == Debiasing::kTwoBatch;
    const std::vector<at::Tensor> batches = DisjointBatches(
        risk.size(), {options.direction_batch_size, two ? options.curvature_batch_size : 0},
        options.seed);

    LAPLACED_ASSIGN_OR_RETURN(result.mean_train_loss,
                              risk.MeanLoss(PhaseProgress(progress, "training loss", 0, 0.1)));

    const Stopwatch lanczos_time;
    LanczosOptions lanczos;
    lanczos.rank = options.rank;
    lanczos.tolerance = options.lanczos_tolerance;
    lanczos.max_products = options.max_products;
    lanczos.seed = options.seed;
    const PhaseProgress directions_progress(progress, "directions", 0.1, 0.6);
    lanczos.on_product = [&](int64_t, int64_t converged) {
      return directions_progress(converged, options.rank);
    };
    LAPLACED_ASSIGN_OR_RETURN(const EigenPairs pairs,
                              Lanczos(GgnOperator(risk, batches[0]), lanczos));
    if (pairs.values.size(0) == 0) {
      return absl::FailedPreconditionError(
          "the curvature of the direction batch is zero: the network's predictions do not change "
          "with its parameters on these "
          "examples (are the outputs saturated?)");
    }
    result.products = pairs.products;
    result.lanczos_seconds = lanczos_time.Seconds();
    result.biased_curvature = pairs.values;
    result.lanczos_residuals = pairs.residuals;
    if (!pairs.converged) {
      const int64_t loose = (pairs.residuals > options.lanczos_tolerance * pairs.values.abs().max())
                                .sum()
                                .item<int64_t>();
      result.warnings.push_back(absl::StrCat(loose, " of ", pairs.values.size(0),
                                             " directions did not converge in ", pairs.products,
                                             " products; curvature along them is still measured "
                                             "without bias (raise max_products to sharpen them)"));
    }
    if (pairs.rank_exhausted) {
      result.warnings.push_back(absl::StrCat("the curvature of the direction batch has rank ",
                                             pairs.values.size(0), ", less than the ", options.rank,
                                             " directions asked for"));
    }

    const Stopwatch curvature_time;
    LowRankPosterior posterior;
    posterior.directions = pairs.vectors.to(risk.network.dtype()).contiguous();
    LAPLACED_ASSIGN_OR_RETURN(
        const DirectionalCurvature curvature,
        MeasureCurvature(risk, plan, batches[two ? 1 : 0], posterior.directions,
                         PhaseProgress(progress, "curvature", 0.6, 0.75)));
    result.curvature_seconds = curvature_time.Seconds();
    posterior.curvature = two ? curvature.values : pairs.values.clamp_min(0);
    posterior.n_data = NumData(risk);
    result.standard_errors = curvature.standard_errors;
    result.trace = curvature.trace;
    result.trace_standard_error = curvature.trace_standard_error;
    if (options.residual == ResidualKind::kIsotropic) {
      posterior.residual =
          IsotropicResidual(curvature.trace, posterior.curvature, risk.network.n_parameters());
    }

    const absl::optional<double> from_weight_decay = WeightDecayPrecision(risk);
    absl::optional<double> delta = options.prior_precision;
    if (validation.size() > 0) {
      const Stopwatch validation_time;
      const int64_t limit = ValidationLimit(risk, options);
      if (validation.size() > limit && options.max_validation_examples == 0) {
        result.warnings.push_back(absl::StrCat("only ", limit, " of ", validation.size(),
                                               " validation examples were used, to bound memory"));
      }
      const int64_t shared = SharedExamples(risk.data, validation);
      if (100 * shared > validation.size()) {
        result.warnings.push_back(
            absl::StrCat(shared, " of ", validation.size(),
                         " validation examples are in the training data too: the tuned precision "
                         "and the OOD thresholds are optimistic"));
      }
      const at::Tensor chosen =
          DisjointBatches(validation.size(), {std::min(limit, validation.size())}, options.seed)[0];
      LAPLACED_ASSIGN_OR_RETURN(
          result.validation, Linearize(risk, plan, validation.Select(chosen), posterior.directions,
                                       PhaseProgress(progress, "validation", 0.75, 0.95)));
      result.validation_nll_map =
          risk.likelihood.Loss(result.validation.f, result.validation.targets)
              .mean()
              .item<double>();
      if (!std::isfinite(result.validation_nll_map)) {
        return absl::FailedPreconditionError("the loss on the validation data is not finite");
      }
      if (!delta) {
        PriorSearch search = TunePriorPrecision(posterior, risk.likelihood, result.validation,
                                                from_weight_decay.value_or(1.0));
        delta = search.prior_precision;
        result.prior_candidates = std::move(search.candidates);
        if (!search.warning.empty()) result.warnings.push_back(search.warning);
      }
      result.validation_seconds = validation_time.Seconds();
    }
    posterior.prior_precision = delta ? *delta : *from_weight_decay;
    result.ood_prior_precision =
        options.ood_prior_precision.value_or(from_weight_decay.value_or(posterior.prior_precision));

    result.parameter_norm_squared =
        risk.network.FlatParameters().to(at::kDouble).square().sum().item<double>();
    result.log_marginal_likelihood = posterior.LogMarginalLikelihood(
        result.mean_train_loss * static_cast<double>(posterior.n_data),
        result.parameter_norm_squared);
    result.effective_parameters = posterior.EffectiveParameters();
    result.posterior = std::move(posterior);
    return result;
  });
}

}  // namespace laplaced
