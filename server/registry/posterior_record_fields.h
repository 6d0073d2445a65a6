// The one list of the fields of PosteriorRecord, for everything that must treat each of them: what
// posterior.json holds, in this order and under these names. See record_json.h for visitors.
#pragma once

#include "server/registry/posterior_record.h"

namespace laplaced {

template <typename Visitor>
void VisitFields(PriorCandidateRecord& record, Visitor& visit) {
  visit("prior_precision", record.prior_precision);
  visit("validation_nll", record.validation_nll);
  visit("log_marginal_likelihood", record.log_marginal_likelihood);
}

template <typename Visitor>
void VisitFields(ParameterBlockRecord& record, Visitor& visit) {
  visit("name", record.name);
  visit("n_parameters", record.n_parameters);
  visit("kind", record.kind);
  visit("trace", record.trace);
  visit("residual", record.residual);
  visit("biased_sum", record.biased_sum);
  visit("debiased_sum", record.debiased_sum);
}

template <typename Visitor>
void VisitFields(OodThresholdRecord& record, Visitor& visit) {
  visit("score", record.score);
  visit("threshold", record.threshold);
  visit("target_id_rate", record.target_id_rate);
  visit("count", record.count);
  visit("rate_lower", record.rate_lower);
  visit("rate_upper", record.rate_upper);
  visit("id_quantiles", record.id_quantiles);
}

template <typename Visitor>
void VisitFields(FeatureRecord& record, Visitor& visit) {
  visit("layer", record.layer);
  visit("n_features", record.n_features);
  visit("count", record.count);
  visit("bank_size", record.bank_size);
  visit("knn_k", record.knn_k);
  visit("vim_dimensions", record.vim_dimensions);
}

template <typename Visitor>
void VisitFields(PosteriorRecord& record, Visitor& visit) {
  visit("id", record.id);
  visit("model", record.model);
  visit("version", record.version);
  visit("requested_rank", record.requested_rank);
  visit("direction_batch_size", record.direction_batch_size);
  visit("curvature_batch_size", record.curvature_batch_size);
  visit("debiasing", record.debiasing);
  visit("residual_kind", record.residual_kind);
  visit("structure", record.structure);
  visit("curvature", record.curvature);
  visit("parameters", record.parameters);
  visit("kfac_eigenvalues", record.kfac_eigenvalues);
  visit("prior_method", record.prior_method);
  visit("temperature", record.temperature);
  visit("noise_method", record.noise_method);
  visit("target_relative_standard_error", record.target_relative_standard_error);
  visit("variance_correction", record.variance_correction);
  visit("memory_limit_bytes", record.memory_limit_bytes);
  visit("fisher_samples", record.fisher_samples);
  visit("feature_layer", record.feature_layer);
  visit("seed", record.seed);
  visit("lanczos_tolerance", record.lanczos_tolerance);
  visit("max_products", record.max_products);
  visit("target_id_rate", record.target_id_rate);
  visit("max_validation_examples", record.max_validation_examples);
  visit("n_data", record.n_data);
  visit("n_parameters", record.n_parameters);
  visit("rank", record.rank);
  visit("prior_precision", record.prior_precision);
  visit("ood_prior_precision", record.ood_prior_precision);
  visit("sigma_noise", record.sigma_noise);
  visit("biased_eigenvalues", record.biased_eigenvalues);
  visit("eigenvalues", record.eigenvalues);
  visit("standard_errors", record.standard_errors);
  visit("lanczos_residuals", record.lanczos_residuals);
  visit("residual", record.residual);
  visit("trace", record.trace);
  visit("trace_standard_error", record.trace_standard_error);
  visit("log_marginal_likelihood", record.log_marginal_likelihood);
  visit("effective_parameters", record.effective_parameters);
  visit("mean_train_loss", record.mean_train_loss);
  visit("parameter_norm_squared", record.parameter_norm_squared);
  visit("blocks", record.blocks);
  visit("residual_share", record.residual_share);
  visit("curvature_count", record.curvature_count);
  visit("clipped_directions", record.clipped_directions);
  visit("parent_posterior_id", record.parent_posterior_id);
  visit("updated_examples", record.updated_examples);
  visit("updated_dataset_ids", record.updated_dataset_ids);
  visit("prior_candidates", record.prior_candidates);
  visit("validation_nll_map", record.validation_nll_map);
  visit("ood_thresholds", record.ood_thresholds);
  visit("default_ood_score", record.default_ood_score);
  visit("available_ood_scores", record.available_ood_scores);
  visit("calibration_dataset_id", record.calibration_dataset_id);
  visit("features", record.features);
  visit("mc_samples", record.mc_samples);
  visit("train_dataset_id", record.train_dataset_id);
  visit("validation_dataset_id", record.validation_dataset_id);
  visit("checkpoint_sha256", record.checkpoint_sha256);
  visit("manifest_fingerprint", record.manifest_fingerprint);
  visit("code_version", record.code_version);
  visit("create_time", record.create_time);
  visit("fit_seconds", record.fit_seconds);
  visit("curvature_products", record.curvature_products);
  visit("lanczos_seconds", record.lanczos_seconds);
  visit("curvature_seconds", record.curvature_seconds);
  visit("validation_seconds", record.validation_seconds);
  visit("peak_memory_bytes", record.peak_memory_bytes);
  visit("warnings", record.warnings);
}

}  // namespace laplaced
