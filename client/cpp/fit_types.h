// Plain values that mirror the API's fits, posteriors and operations.
//
// Field names and meanings are those of proto/laplace/v1/{posterior,operation}.proto, where units,
// scales and defaults are documented. A zero or absent option means the server's default. Nothing
// here is synchronised.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/optional.h"

namespace laplace::client {

enum class Debiasing { kDefault, kNone, kTwoBatch, kCrossFit, kFullPass };
enum class Residual { kDefault, kNone, kIsotropic, kLayerwise, kDiagonal };
enum class Structure { kDefault, kLowRank, kKfac, kLastLayer };
enum class Curvature { kDefault, kGgn, kMcFisher, kEmpiricalFisher, kHessian };
enum class KfacEigenvalues { kDefault, kFactors, kExact };
enum class PriorMethod { kDefault, kGiven, kWeightDecay, kEvidence, kValidation };
enum class NoiseMethod { kDefault, kGiven, kManifest, kData, kEvidence };

struct FitOptions {
  int32_t rank = 0;                  // K
  int64_t direction_batch_size = 0;  // |B1|
  int64_t curvature_batch_size = 0;  // |B2|
  Debiasing debiasing = Debiasing::kDefault;
  Residual residual = Residual::kDefault;
  uint64_t seed = 0;
  absl::optional<double> prior_precision;
  absl::optional<double> ood_prior_precision;
  double lanczos_tolerance = 0;
  int32_t max_products = 0;
  double target_id_rate = 0;
  int64_t max_validation_examples = 0;
  Structure structure = Structure::kDefault;
  Curvature curvature = Curvature::kDefault;
  std::vector<std::string> parameters;  // patterns; empty: all
  KfacEigenvalues kfac_eigenvalues = KfacEigenvalues::kDefault;
  PriorMethod prior_method = PriorMethod::kDefault;
  double temperature = 0;
  NoiseMethod noise_method = NoiseMethod::kDefault;
  absl::optional<double> sigma_noise;
  double target_relative_standard_error = 0;
  bool variance_correction = false;
  int64_t memory_limit_bytes = 0;
  int32_t fisher_samples = 0;
  std::string feature_layer;  // empty: the last linear layer's input
};

struct FitRequest {
  std::string model = {};
  int64_t version = 0;
  std::string train_dataset_id = {};       // from EnsureDataset
  std::string validation_dataset_id = {};  // empty for none
  FitOptions options = {};
  bool keep_inactive = false;
};

struct UpdateRequest {
  std::string model = {};
  int64_t version = 0;
  std::string posterior_id = {};  // to start from; empty for the active one
  std::string dataset_id = {};    // from EnsureDataset
  bool keep_inactive = false;
};

struct CalibrateRequest {
  std::string model = {};
  int64_t version = 0;
  std::string posterior_id = {};       // to start from; empty for the active one
  std::string dataset_id = {};         // from EnsureDataset; its targets are not used
  double target_id_rate = 0;           // 0: what the posterior aims at
  std::string default_ood_score = {};  // empty: as it is
  bool keep_inactive = false;
};

enum class NewtonVariant { kDefault, kDebiased, kSingle, kEqualBudget, kOracle };

struct NewtonRequest {
  std::string model = {};
  int64_t version = 0;
  std::string train_dataset_id = {};     // from EnsureDataset
  std::string held_out_dataset_id = {};  // likewise; empty holds out training examples
  bool keep_worse = false;

  NewtonVariant variant = NewtonVariant::kDefault;
  Curvature curvature = Curvature::kDefault;  // kGgn or kHessian
  int64_t direction_batch_size = 0;           // |B1|
  int64_t curvature_batch_size = 0;           // |B2|
  int64_t held_out_size = 0;
  absl::optional<double> damping = {};
  int32_t max_steps = 0;
  double tolerance = 0;
  uint64_t seed = 0;
};

struct PriorCandidate {
  double prior_precision = 0;
  double validation_nll = 0;
  double log_marginal_likelihood = 0;
};

// One parameter tensor under a posterior.
struct ParameterBlock {
  std::string name;
  int64_t n_parameters = 0;
  std::string kind;  // "directions", "kronecker", "dense", "diagonal"
  double trace = 0;
  double residual = 0;
  double biased_sum = 0;
  double debiased_sum = 0;
};

struct OodThreshold {
  std::string score;
  double threshold = 0;
  double target_id_rate = 0;
  int64_t count = 0;
  double rate_lower = 0;
  double rate_upper = 0;
  std::vector<double> id_quantiles;  // at .01 .05 .1 .25 .5 .75 .9 .95 .99; may be empty
};

// The features that the feature scores are about.
struct FeatureSummary {
  std::string layer;
  int64_t n_features = 0;  // D
  int64_t count = 0;
  int64_t bank_size = 0;
  int64_t knn_k = 0;
  int64_t vim_dimensions = 0;  // 0: no vim
};

struct FitCost {
  double seconds = 0;
  int64_t curvature_products = 0;
  double lanczos_seconds = 0;
  double curvature_seconds = 0;
  double validation_seconds = 0;
  int64_t peak_memory_bytes = 0;
};

struct Posterior {
  std::string id;
  std::string model;
  int64_t version = 0;
  bool active = false;
  FitOptions options;  // as used
  int64_t n_data = 0;
  int64_t n_parameters = 0;
  int32_t rank = 0;
  double prior_precision = 0;
  double ood_prior_precision = 0;
  std::vector<double> biased_eigenvalues;
  std::vector<double> eigenvalues;
  std::vector<double> standard_errors;
  std::vector<double> lanczos_residuals;
  double residual = 0;
  double trace = 0;
  double trace_standard_error = 0;
  double log_marginal_likelihood = 0;
  double effective_parameters = 0;
  double mean_train_loss = 0;
  std::vector<PriorCandidate> prior_candidates;
  double validation_nll_map = 0;
  std::vector<OodThreshold> ood_thresholds;
  std::string default_ood_score;
  std::string train_dataset_id;
  std::string validation_dataset_id;
  std::string checkpoint_sha256;
  std::string code_version;
  std::string create_time;
  FitCost cost;
  int32_t mc_samples = 0;
  std::vector<std::string> warnings;
  std::vector<ParameterBlock> blocks;
  double residual_share = 0;
  int64_t curvature_count = 0;
  int32_t clipped_directions = 0;
  std::string parent_posterior_id;
  int64_t updated_examples = 0;
  std::vector<std::string> updated_dataset_ids;
  std::string calibration_dataset_id;
  std::vector<std::string> available_ood_scores;
  absl::optional<FeatureSummary> features;  // none if the model has no layer for them
};

enum class OperationState { kUnspecified, kRunning, kSucceeded, kFailed, kCancelled };

struct Operation {
  std::string id;
  OperationState state = OperationState::kUnspecified;
  std::string description;
  std::string phase;
  int64_t done = 0;
  int64_t total = 0;
  double fraction = 0;
  double seconds_left = -1;
  std::string posterior_id;
  absl::StatusCode error_code = absl::StatusCode::kOk;
  std::string error_message;
  std::string start_time;
  std::string end_time;
  int64_t model_version = 0;  // made by a Newton step, and what it gained
  std::string result;

  bool finished() const {
    return state != OperationState::kUnspecified && state != OperationState::kRunning;
  }
};

}  // namespace laplace::client
