// The fit pipeline: training loss, curvature in one of three structures, noise, prior.
//
//   1. mean training loss over all data (also the check that it is finite), and the noise of a
//      Gaussian likelihood if that comes from the data
//   2. curvature: LOW_RANK (low_rank_fit.h), KFAC (kronecker_fit.h) or LAST_LAYER
//   (last_layer_fit.h)
//   3. validation NLL and evidence of prior precisions on a log grid; the prior precision for
//      predictions by the chosen method, that for OOD scores from the weight decay
//   4. evidence and effective parameters at the prior precision for predictions
//
// Several ranks (risk.ranks) fit together, each with its share of both data sets; all end with the
// same result. An error on one of them ends only its own fit: the caller tells the others.
//
// The uncertain parameters are all of risk.network: restrict it before (ParametersOf). CheckFit
// finds everything that can be wrong before work starts. RunFit replaces parameters inside
// risk.network while it runs, so give it a clone. Progress may cancel: its error ends the fit
// within one curvature product (with HESSIAN, one small chunk's products while curvature is
// measured).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "server/curvature/empirical_risk.h"
#include "server/laplace/fitted_curvature.h"
#include "server/laplace/low_rank_fit.h"
#include "server/laplace/posterior.h"
#include "server/laplace/prior_precision.h"

namespace laplaced {

// Precisions and temperatures outside this range overflow sooner or later.
inline constexpr double kLeastPrecision = 1e-30, kMostPrecision = 1e30;

enum class StructureKind { kLowRank, kKfac, kLastLayer };
enum class PriorMethod { kGiven, kWeightDecay, kEvidence, kValidation };
enum class NoiseMethod { kGiven, kManifest, kData, kEvidence };

struct FitOptions {
  StructureKind structure = StructureKind::kLowRank;
  // Sizes and seed for all structures; the rest for LOW_RANK. KFAC knows NONE and TWO_BATCH.
  LowRankOptions low_rank;
  bool kfac_exact = true;                    // KFAC: eigenvalues measured exactly, or from factors
  std::vector<std::string> parameters;       // patterns; empty: all. Not with LAST_LAYER
  absl::optional<PriorMethod> prior_method;  // nothing: see PriorMethodOf
  absl::optional<double> prior_precision;
  absl::optional<double> ood_prior_precision;
  double temperature = 1;
  absl::optional<NoiseMethod> noise_method;  // nothing: see NoiseMethodOf
  absl::optional<double> sigma_noise;
  int64_t max_validation_examples = 0;  // 0: all; fewer are chosen by the seed
  int64_t memory_limit_bytes = 0;       // of everything that grows with P; 0: none
};

// Phase, work done and to do in it, and the share of the whole fit that is done.
using FitProgressFn = std::function<absl::Status(const std::string& phase, int64_t done,
                                                 int64_t total, double fraction)>;

// Sees all validation data, batch after batch, at the precision for OOD scores: f, covariance and
// outside are there. `x` are the network's inputs; `likelihood` has the posterior's noise.
using ValidationFn = std::function<absl::Status(const Likelihood& likelihood, const Posterior& ood,
                                                const at::Tensor& x, const Linearized& batch)>;

// Those who want to see the data while a fit goes through it, or have a part in it; each may be
// null. Of several ranks, each shows its own data.
struct FitWatchers {
  ForwardFn on_training;  // all training data (of an update: the new data), once
  std::function<absl::Status()> after_training = nullptr;  // when they are through
  ValidationFn on_validation;
  LanczosCheckpoint* checkpoint = nullptr;
};

struct FitResult {
  std::shared_ptr<const FittedCurvature> fitted;
  Posterior posterior;  // at the prior precision for predictions
  double ood_prior_precision = 0;
  double sigma_noise = 0;  // Gaussian likelihood only
  PriorMethod prior_method = PriorMethod::kGiven;
  NoiseMethod noise_method = NoiseMethod::kManifest;
  CurvatureReport report;
  double mean_train_loss = 0;
  double parameter_norm_squared = 0;  // of the uncertain parameters
  double log_marginal_likelihood = 0;
  double effective_parameters = 0;
  std::vector<PriorCandidate> prior_candidates;
  double validation_nll_map = 0;  // 0 without validation data
  int64_t validation_count = 0;
  LowRankCost cost;
  double validation_seconds = 0;
  std::vector<std::string> warnings;
};

// The names of the parameters that are to be uncertain; errors name "options.parameters[i]".
absl::StatusOr<std::vector<std::string>> ParametersOf(const Network& network,
                                                      const FitOptions& options);

// K of structure.h, one number for each parameter tensor: bias_weight_decay / weight_decay for
// those with at most one dimension, 1 for the others.
std::vector<double> PriorScale(const Network& network, const Manifest& manifest);

// `options.prior_method`, or GIVEN if there is a precision, else VALIDATION if there is validation
// data, else WEIGHT_DECAY.
PriorMethod PriorMethodOf(const FitOptions& options, bool has_validation);
// `options.noise_method`, or GIVEN if there is a sigma_noise, else MANIFEST.
NoiseMethod NoiseMethodOf(const FitOptions& options);

// INVALID_ARGUMENT with a field path under "options." or
// "train_dataset_id"/"validation_dataset_id".
absl::Status CheckFit(const EmpiricalRisk& risk, const CapturePlan& plan, const Dataset& validation,
                      const FitOptions& options);
// The part of it that an update needs: data that fit the model.
absl::Status CheckData(const EmpiricalRisk& risk, const std::string& field, const Dataset& data);

// The part of that which is about inputs alone.
absl::Status CheckExamples(const Manifest& manifest, const std::string& field, const Dataset& data);

// `validation` may be empty. REQUIRES: CheckFit is OK.
absl::StatusOr<FitResult> RunFit(EmpiricalRisk risk, const CapturePlan& plan,
                                 const Dataset& validation, const FitOptions& options,
                                 const FitProgressFn& progress, const FitWatchers& watchers = {});

// What an update starts from.
struct UpdateStart {
  std::shared_ptr<const FittedCurvature> fitted;
  int64_t n_data = 0;
  double mean_train_loss = 0;
  double prior_precision = 0;
  double ood_prior_precision = 0;
  double sigma_noise = 0;  // Gaussian likelihood only: what loss and curvature were measured with
};

// Streams the examples of `risk` into the curvature (FittedCurvature::WithData); N and the mean
// loss grow with them. The prior precision is chosen again by the same method (GIVEN and
// WEIGHT_DECAY: stays); the noise stays unless it is by EVIDENCE.
absl::StatusOr<FitResult> RunUpdate(EmpiricalRisk risk, const CapturePlan& plan,
                                    const Dataset& validation, const FitOptions& options,
                                    const UpdateStart& start, const FitProgressFn& progress,
                                    const FitWatchers& watchers = {});

}  // namespace laplaced
