// Everything about a posterior except its tensors: what posterior.json holds and what GetPosterior
// shows.
//
// Plain values, no LibTorch. Scales: eigenvalues are of the mean curvature over examples (nats per
// squared parameter unit); precisions multiply them by n_data. Vectors per direction all have
// length `rank` and the same order.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace laplaced {

struct PriorCandidateRecord {
  double prior_precision = 0;
  double validation_nll = 0;           // mean, nats; 0 without validation data
  double log_marginal_likelihood = 0;  // nats
};

// One parameter tensor under the posterior; see ParameterBlock in laplace/v1/posterior.proto.
struct ParameterBlockRecord {
  std::string name;
  int64_t n_parameters = 0;
  std::string kind;  // "directions", "kronecker", "dense", "diagonal"
  double trace = 0;
  double residual = 0;
  double biased_sum = 0;
  double debiased_sum = 0;
};

struct OodThresholdRecord {
  std::string score;
  double threshold = 0;
  double target_id_rate = 0;
  int64_t count = 0;      // calibration examples
  double rate_lower = 0;  // 95 % interval of the rate on fresh in-distribution data
  double rate_upper = 0;
  std::vector<double> id_quantiles;  // at kIdQuantiles of server/ood/threshold.h
};

// See FeatureSummary in laplace/v1/posterior.proto; no layer: there are no features.
struct FeatureRecord {
  std::string layer;
  int64_t n_features = 0;
  int64_t count = 0;
  int64_t bank_size = 0;
  int64_t knn_k = 0;
  int64_t vim_dimensions = 0;
};

struct PosteriorRecord {
  std::string id;
  std::string model;
  int64_t version = 0;

  // Options as used, defaults filled in.
  int64_t requested_rank = 0;
  int64_t direction_batch_size = 0;
  int64_t curvature_batch_size = 0;
  std::string debiasing;                // "none" | "two_batch" | "cross_fit" | "full_pass"
  std::string residual_kind;            // "none" | "isotropic" | "layerwise" | "diagonal"
  std::string structure = "low_rank";   // | "kfac" | "last_layer"
  std::string curvature = "ggn";        // | "mc_fisher" | "empirical_fisher" | "hessian"
  std::vector<std::string> parameters;  // patterns; empty: all
  std::string kfac_eigenvalues;         // "factors" | "exact"
  std::string prior_method;             // "given" | "weight_decay" | "evidence" | "validation"
  double temperature = 1;
  std::string noise_method;  // "given" | "manifest" | "data" | "evidence"
  double target_relative_standard_error = 0;
  bool variance_correction = false;
  int64_t memory_limit_bytes = 0;
  int64_t fisher_samples = 0;
  std::string feature_layer;  // as asked for; empty: the last linear layer's input
  uint64_t seed = 0;
  double lanczos_tolerance = 0;
  int64_t max_products = 0;
  double target_id_rate = 0;
  int64_t max_validation_examples = 0;

  int64_t n_data = 0;
  int64_t n_parameters = 0;
  int64_t rank = 0;
  double prior_precision = 0;
  double ood_prior_precision = 0;
  double sigma_noise = 0;  // Gaussian likelihood only
  std::vector<double> biased_eigenvalues;
  std::vector<double> eigenvalues;
  std::vector<double> standard_errors;
  std::vector<double> lanczos_residuals;
  double residual = 0;  // rho
  double trace = 0;
  double trace_standard_error = 0;
  double log_marginal_likelihood = 0;
  double effective_parameters = 0;
  double mean_train_loss = 0;
  double parameter_norm_squared = 0;  // ||theta||^2
  std::vector<ParameterBlockRecord> blocks;
  double residual_share = 0;
  int64_t curvature_count = 0;
  int64_t clipped_directions = 0;
  std::string parent_posterior_id;
  int64_t updated_examples = 0;
  std::vector<std::string> updated_dataset_ids;
  std::vector<PriorCandidateRecord> prior_candidates;
  double validation_nll_map = 0;
  std::vector<OodThresholdRecord> ood_thresholds;
  std::string default_ood_score;
  std::vector<std::string> available_ood_scores;
  std::string calibration_dataset_id;
  FeatureRecord features;
  int64_t mc_samples = 0;

  std::string train_dataset_id;
  std::string validation_dataset_id;
  std::string checkpoint_sha256;
  std::string manifest_fingerprint;  // of the model.json it was fitted with
  std::string code_version;
  std::string create_time;  // RFC 3339, UTC

  double fit_seconds = 0;
  int64_t curvature_products = 0;
  double lanczos_seconds = 0;
  double curvature_seconds = 0;
  double validation_seconds = 0;
  int64_t peak_memory_bytes = 0;
  std::vector<std::string> warnings;
};

}  // namespace laplaced
