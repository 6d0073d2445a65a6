// The fit pipeline: training loss, directions from B1, curvature along them from an independent B2,
// residual, prior.
//
//   1. mean training loss over all data (also the check that it is finite)
//   2. Lanczos on the GGN of B1: K orthonormal directions with their (biased) Ritz values
//   3. curvature along the directions, and the trace, on B2 (TWO_BATCH) or again on B1 (NONE: the
//   biased baseline)
//   4. isotropic residual from the trace
//   5. prior precision: given, tuned on validation data, or n_data * weight_decay
//   6. evidence and effective parameters at that precision
//
// CheckFit finds everything that can be wrong before work starts. RunFit replaces parameters inside
// risk.network while it runs, so give it a clone. Progress may cancel: its error ends the fit
// within one curvature product.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "server/curvature/empirical_risk.h"
#include "server/laplace/posterior.h"
#include "server/laplace/prior_precision.h"

namespace laplaced {

enum class Debiasing { kNone, kTwoBatch };
enum class ResidualKind { kNone, kIsotropic };

struct FitOptions {
  int64_t rank = 50;
  int64_t direction_batch_size = 1024;
  int64_t curvature_batch_size = 4096;  // ignored with kNone
  Debiasing debiasing = Debiasing::kTwoBatch;
  ResidualKind residual = ResidualKind::kIsotropic;
  uint64_t seed = 0;
  absl::optional<double> prior_precision;
  absl::optional<double> ood_prior_precision;
  double lanczos_tolerance = 1e-3;
  int64_t max_products = 0;             // 0: 10 * rank
  int64_t max_validation_examples = 0;  // 0: all; fewer are chosen by the seed
  int64_t memory_limit_bytes = 0;       // of the directions; 0: none
};

// Phase, work done and to do in it, and the share of the whole fit that is done.
using FitProgressFn = std::function<absl::Status(const std::string& phase, int64_t done,
                                                 int64_t total, double fraction)>;

struct FitResult {
  LowRankPosterior posterior;  // at the prior precision for predictions
  double ood_prior_precision = 0;
  at::Tensor biased_curvature;   // [K] fp64, Ritz values on B1
  at::Tensor standard_errors;    // [K] fp64, of posterior.curvature
  at::Tensor lanczos_residuals;  // [K] fp64
  double trace = 0;
  double trace_standard_error = 0;
  double mean_train_loss = 0;
  double parameter_norm_squared = 0;
  double log_marginal_likelihood = 0;
  double effective_parameters = 0;
  std::vector<PriorCandidate> prior_candidates;
  double validation_nll_map = 0;  // 0 without validation data
  LinearizedData validation;      // empty without validation data
  int64_t products = 0;
  double lanczos_seconds = 0;
  double curvature_seconds = 0;
  double validation_seconds = 0;
  std::vector<std::string> warnings;
};

// INVALID_ARGUMENT with a field path under "options." or
// "train_dataset_id"/"validation_dataset_id".
absl::Status CheckFit(const EmpiricalRisk& risk, const Dataset& validation,
                      const FitOptions& options);

// `validation` may be empty. REQUIRES: CheckFit is OK.
absl::StatusOr<FitResult> RunFit(const EmpiricalRisk& risk, const CapturePlan& plan,
                                 const Dataset& validation, const FitOptions& options,
                                 const FitProgressFn& progress);

}  // namespace laplaced
