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
  double validation_nll = 0;  // mean, nats
};

struct OodThresholdRecord {
  std::string score;
  double threshold = 0;
  double target_id_rate = 0;
  int64_t count = 0;      // calibration examples
  double rate_lower = 0;  // 95 % interval of the rate on fresh in-distribution data
  double rate_upper = 0;
};

struct PosteriorRecord {
  std::string id;
  std::string model;
  int64_t version = 0;

  // Options as used, defaults filled in.
  int64_t requested_rank = 0;
  int64_t direction_batch_size = 0;
  int64_t curvature_batch_size = 0;
  std::string debiasing;      // "none" | "two_batch"
  std::string residual_kind;  // "none" | "isotropic"
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
  std::vector<PriorCandidateRecord> prior_candidates;
  double validation_nll_map = 0;
  std::vector<OodThresholdRecord> ood_thresholds;
  std::string default_ood_score;
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
  std::vector<std::string> warnings;
};

}  // namespace laplaced
