// Models, operations and posteriors; predictions are in prediction_json.cc.
#include "client/cli/json_output.h"

#include <string>
#include <vector>

#include "client/cli/fit_words.h"
#include "formats/array.h"

namespace laplace::cli {
namespace {

Json ToJson(const client::FitOptions& options) {
  Json json = {{"rank", options.rank},
               {"direction_batch_size", options.direction_batch_size},
               {"curvature_batch_size", options.curvature_batch_size},
               {"debiasing", WordOf(kDebiasingWords, options.debiasing)},
               {"residual", WordOf(kResidualWords, options.residual)},
               {"seed", options.seed}};
  if (options.prior_precision) json["prior_precision"] = *options.prior_precision;
  if (options.ood_prior_precision) json["ood_prior_precision"] = *options.ood_prior_precision;
  json["lanczos_tolerance"] = options.lanczos_tolerance;
  json["max_products"] = options.max_products;
  json["target_id_rate"] = options.target_id_rate;
  json["max_validation_examples"] = options.max_validation_examples;
  json["structure"] = WordOf(kStructureWords, options.structure);
  json["curvature"] = WordOf(kCurvatureWords, options.curvature);
  json["parameters"] = options.parameters;
  json["kfac_eigenvalues"] = WordOf(kKfacEigenvaluesWords, options.kfac_eigenvalues);
  json["prior_method"] = WordOf(kPriorMethodWords, options.prior_method);
  json["temperature"] = options.temperature;
  json["noise_method"] = WordOf(kNoiseMethodWords, options.noise_method);
  if (options.sigma_noise) json["sigma_noise"] = *options.sigma_noise;
  json["target_relative_standard_error"] = options.target_relative_standard_error;
  json["variance_correction"] = options.variance_correction;
  json["memory_limit_bytes"] = options.memory_limit_bytes;
  json["fisher_samples"] = options.fisher_samples;
  json["feature_layer"] = options.feature_layer;
  return json;
}

Json ToJson(const client::FeatureSummary& features) {
  return {{"layer", features.layer}, {"n_features", features.n_features},
          {"count", features.count}, {"bank_size", features.bank_size},
          {"knn_k", features.knn_k}, {"vim_dimensions", features.vim_dimensions}};
}

Json Blocks(const std::vector<client::ParameterBlock>& blocks) {
  Json json = Json::array();
  for (const client::ParameterBlock& block : blocks) {
    json.push_back({{"name", block.name},
                    {"n_parameters", block.n_parameters},
                    {"kind", block.kind},
                    {"trace", block.trace},
                    {"residual", block.residual},
                    {"biased_sum", block.biased_sum},
                    {"debiased_sum", block.debiased_sum}});
  }
  return json;
}

}  // namespace

const char* StateName(client::ModelState state) {
  switch (state) {
    case client::ModelState::kAvailable:
      return "available";
    case client::ModelState::kReady:
      return "ready";
    case client::ModelState::kFailed:
      return "failed";
    default:
      return "unknown";
  }
}

const char* StateName(client::OperationState state) {
  switch (state) {
    case client::OperationState::kRunning:
      return "running";
    case client::OperationState::kSucceeded:
      return "succeeded";
    case client::OperationState::kFailed:
      return "failed";
    case client::OperationState::kCancelled:
      return "cancelled";
    default:
      return "unknown";
  }
}

const char* LikelihoodName(client::Likelihood likelihood) {
  switch (likelihood) {
    case client::Likelihood::kCategorical:
      return "categorical";
    case client::Likelihood::kGaussian:
      return "gaussian";
    case client::Likelihood::kBernoulli:
      return "bernoulli";
    default:
      return "unknown";
  }
}

Json ToJson(const client::Model& model) {
  Json json = {{"name", model.name},
               {"version", model.version},
               {"state", StateName(model.state)},
               {"state_message", model.state_message},
               {"likelihood", LikelihoodName(model.likelihood)},
               {"input_shape", model.input_shape},
               {"input_dtype", ::laplaced::DTypeName(model.input_dtype)},
               {"accepts_uint8", model.accepts_uint8},
               {"n_outputs", model.n_outputs},
               {"n_parameters", model.n_parameters},
               {"class_names", model.class_names},
               {"n_data", model.n_data},
               {"weight_decay", model.weight_decay},
               {"bias_weight_decay", model.bias_weight_decay}};
  if (model.likelihood == client::Likelihood::kGaussian) json["sigma_noise"] = model.sigma_noise;
  json["checkpoint_sha256"] = model.checkpoint_sha256;
  json["active_posterior_id"] = model.active_posterior_id;
  json["captured_parameters"] = model.captured_parameters;
  json["generic_parameters"] = model.generic_parameters;
  json["last_layer_parameters"] = model.last_layer_parameters;
  json["memory_bytes"] = model.memory_bytes;
  json["description"] = model.description;
  return json;
}

Json ToJson(const client::Operation& operation) {
  Json json = {{"id", operation.id},
               {"state", StateName(operation.state)},
               {"description", operation.description},
               {"phase", operation.phase},
               {"done", operation.done},
               {"total", operation.total},
               {"fraction", operation.fraction}};
  if (operation.seconds_left >= 0) json["seconds_left"] = operation.seconds_left;
  if (!operation.posterior_id.empty()) json["posterior_id"] = operation.posterior_id;
  if (operation.model_version > 0) json["model_version"] = operation.model_version;
  if (!operation.result.empty()) json["result"] = operation.result;
  if (operation.state == client::OperationState::kFailed) {
    json["error_code"] = absl::StatusCodeToString(operation.error_code);
    json["error_message"] = operation.error_message;
  }
  json["start_time"] = operation.start_time;
  if (!operation.end_time.empty()) json["end_time"] = operation.end_time;
  return json;
}

Json ToJson(const client::Posterior& posterior) {
  Json json = {{"id", posterior.id},
               {"model", posterior.model},
               {"version", posterior.version},
               {"active", posterior.active},
               {"options", ToJson(posterior.options)},
               {"n_data", posterior.n_data},
               {"n_parameters", posterior.n_parameters},
               {"rank", posterior.rank},
               {"prior_precision", posterior.prior_precision},
               {"ood_prior_precision", posterior.ood_prior_precision},
               {"biased_eigenvalues", posterior.biased_eigenvalues},
               {"eigenvalues", posterior.eigenvalues},
               {"standard_errors", posterior.standard_errors},
               {"lanczos_residuals", posterior.lanczos_residuals},
               {"residual", posterior.residual},
               {"trace", posterior.trace},
               {"trace_standard_error", posterior.trace_standard_error},
               {"log_marginal_likelihood", posterior.log_marginal_likelihood},
               {"effective_parameters", posterior.effective_parameters},
               {"mean_train_loss", posterior.mean_train_loss}};
  json["prior_candidates"] = Json::array();
  for (const client::PriorCandidate& candidate : posterior.prior_candidates) {
    json["prior_candidates"].push_back(
        {{"prior_precision", candidate.prior_precision},
         {"validation_nll", candidate.validation_nll},
         {"log_marginal_likelihood", candidate.log_marginal_likelihood}});
  }
  json["validation_nll_map"] = posterior.validation_nll_map;
  json["ood_thresholds"] = Json::array();
  for (const client::OodThreshold& threshold : posterior.ood_thresholds) {
    json["ood_thresholds"].push_back({{"score", threshold.score},
                                      {"threshold", threshold.threshold},
                                      {"target_id_rate", threshold.target_id_rate},
                                      {"count", threshold.count},
                                      {"rate_lower", threshold.rate_lower},
                                      {"rate_upper", threshold.rate_upper},
                                      {"id_quantiles", threshold.id_quantiles}});
  }
  json["default_ood_score"] = posterior.default_ood_score;
  json["train_dataset_id"] = posterior.train_dataset_id;
  json["validation_dataset_id"] = posterior.validation_dataset_id;
  json["checkpoint_sha256"] = posterior.checkpoint_sha256;
  json["code_version"] = posterior.code_version;
  json["create_time"] = posterior.create_time;
  json["cost"] = {{"seconds", posterior.cost.seconds},
                  {"curvature_products", posterior.cost.curvature_products},
                  {"lanczos_seconds", posterior.cost.lanczos_seconds},
                  {"curvature_seconds", posterior.cost.curvature_seconds},
                  {"validation_seconds", posterior.cost.validation_seconds},
                  {"peak_memory_bytes", posterior.cost.peak_memory_bytes}};
  json["mc_samples"] = posterior.mc_samples;
  json["warnings"] = posterior.warnings;
  json["blocks"] = Blocks(posterior.blocks);
  json["residual_share"] = posterior.residual_share;
  json["curvature_count"] = posterior.curvature_count;
  json["clipped_directions"] = posterior.clipped_directions;
  json["parent_posterior_id"] = posterior.parent_posterior_id;
  json["updated_examples"] = posterior.updated_examples;
  json["updated_dataset_ids"] = posterior.updated_dataset_ids;
  json["calibration_dataset_id"] = posterior.calibration_dataset_id;
  json["available_ood_scores"] = posterior.available_ood_scores;
  if (posterior.features) json["features"] = ToJson(*posterior.features);
  return json;
}

}  // namespace laplace::cli
