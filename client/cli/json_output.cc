#include "client/cli/json_output.h"

#include <string>
#include <vector>

#include "client/cli/metrics.h"
#include "formats/array.h"

namespace laplace::cli {
namespace {

template <typename T>
Json Row(const std::vector<T>& values, int64_t row, int64_t width) {
  return std::vector<T>(values.begin() + row * width, values.begin() + (row + 1) * width);
}

Json RowScores(const std::vector<client::OodScore>& scores, int64_t row) {
  Json json = Json::object();
  for (const client::OodScore& score : scores) {
    json[score.name]["value"] = score.values[row];
    if (score.threshold) json[score.name]["is_ood"] = static_cast<bool>(score.is_ood[row]);
  }
  return json;
}

Json Thresholds(const std::vector<client::OodScore>& scores) {
  Json json = Json::object();
  for (const client::OodScore& score : scores) {
    if (!score.threshold) continue;
    json[score.name] = {{"threshold", *score.threshold}, {"target_id_rate", score.target_id_rate}};
  }
  return json;
}

Json ToJson(const client::Timing& timing) {
  return {{"queue_seconds", timing.queue_seconds}, {"compute_seconds", timing.compute_seconds}};
}

Json ToJson(const client::FitOptions& options) {
  Json json = {{"rank", options.rank},
               {"direction_batch_size", options.direction_batch_size},
               {"curvature_batch_size", options.curvature_batch_size},
               {"debiasing", DebiasingName(options.debiasing)},
               {"residual", ResidualName(options.residual)},
               {"seed", options.seed}};
  if (options.prior_precision) json["prior_precision"] = *options.prior_precision;
  if (options.ood_prior_precision) json["ood_prior_precision"] = *options.ood_prior_precision;
  json["lanczos_tolerance"] = options.lanczos_tolerance;
  json["max_products"] = options.max_products;
  json["target_id_rate"] = options.target_id_rate;
  json["max_validation_examples"] = options.max_validation_examples;
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
    default:
      return "unknown";
  }
}

const char* DebiasingName(client::Debiasing debiasing) {
  switch (debiasing) {
    case client::Debiasing::kNone:
      return "none";
    case client::Debiasing::kTwoBatch:
      return "two-batch";
    default:
      return "default";
  }
}

const char* ResidualName(client::Residual residual) {
  switch (residual) {
    case client::Residual::kNone:
      return "none";
    case client::Residual::kIsotropic:
      return "isotropic";
    default:
      return "default";
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
               {"weight_decay", model.weight_decay}};
  if (model.likelihood == client::Likelihood::kGaussian) json["sigma_noise"] = model.sigma_noise;
  json["checkpoint_sha256"] = model.checkpoint_sha256;
  json["active_posterior_id"] = model.active_posterior_id;
  json["captured_parameters"] = model.captured_parameters;
  json["generic_parameters"] = model.generic_parameters;
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
    json["prior_candidates"].push_back({{"prior_precision", candidate.prior_precision},
                                        {"validation_nll", candidate.validation_nll}});
  }
  json["validation_nll_map"] = posterior.validation_nll_map;
  json["ood_thresholds"] = Json::array();
  for (const client::OodThreshold& threshold : posterior.ood_thresholds) {
    json["ood_thresholds"].push_back({{"score", threshold.score},
                                      {"threshold", threshold.threshold},
                                      {"target_id_rate", threshold.target_id_rate},
                                      {"count", threshold.count},
                                      {"rate_lower", threshold.rate_lower},
                                      {"rate_upper", threshold.rate_upper}});
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
                  {"validation_seconds", posterior.cost.validation_seconds}};
  json["mc_samples"] = posterior.mc_samples;
  json["warnings"] = posterior.warnings;
  return json;
}

Json ToJson(const client::Prediction& prediction, const client::Model& model, int64_t first_row) {
  const int64_t outputs = prediction.outputs;
  const bool categorical = model.likelihood == client::Likelihood::kCategorical;
  const int64_t split = prediction.batch ? prediction.epistemic.size() / prediction.batch : 0;
  Json json = {{"model", prediction.model},
               {"version", prediction.version},
               {"posterior_id", prediction.posterior_id},
               {"prior_precision", prediction.prior_precision},
               {"ood_thresholds", Thresholds(prediction.ood_scores)},
               {"timing", ToJson(prediction.timing)}};
  json["rows"] = Json::array();
  for (int64_t row = 0; row < prediction.batch; ++row) {
    Json item = {{"row", first_row + row}};
    if (categorical) {
      const int64_t predicted = ArgMax(prediction.mean, outputs, row);
      item["predicted"] = predicted;
      if (predicted < static_cast<int64_t>(model.class_names.size())) {
        item["class_name"] = model.class_names[predicted];
      }
    }
    item["mean"] = Row(prediction.mean, row, outputs);
    item["map_mean"] = Row(prediction.map_mean, row, outputs);
    item["functional_mean"] = Row(prediction.functional_mean, row, outputs);
    item["functional_variance"] = Row(prediction.functional_variance, row, outputs);
    if (!prediction.functional_covariance.empty()) {
      item["functional_covariance"] = Json::array();
      for (int64_t c = 0; c < outputs; ++c) {
        item["functional_covariance"].push_back(
            Row(prediction.functional_covariance, row * outputs + c, outputs));
      }
    }
    if (split == 1 && categorical) {
      item["epistemic"] = prediction.epistemic[row];
      item["aleatoric"] = prediction.aleatoric[row];
    } else {
      item["epistemic"] = Row(prediction.epistemic, row, split);
      item["aleatoric"] = Row(prediction.aleatoric, row, split);
    }
    item["ood_scores"] = RowScores(prediction.ood_scores, row);
    json["rows"].push_back(std::move(item));
  }
  return json;
}

Json ToJson(const client::Scores& scores, int64_t first_row) {
  Json json = {{"model", scores.model},
               {"version", scores.version},
               {"posterior_id", scores.posterior_id},
               {"ood_thresholds", Thresholds(scores.ood_scores)},
               {"timing", ToJson(scores.timing)}};
  json["rows"] = Json::array();
  const size_t rows = scores.ood_scores.empty() ? 0 : scores.ood_scores[0].values.size();
  for (size_t row = 0; row < rows; ++row) {
    json["rows"].push_back(
        {{"row", first_row + row}, {"ood_scores", RowScores(scores.ood_scores, row)}});
  }
  return json;
}

}  // namespace laplace::cli
