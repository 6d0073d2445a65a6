#include "server/rpc/record_codec.h"

#include "server/rpc/client_text.h"
#include "server/rpc/fit_options_codec.h"
#include "server/rpc/status_mapping.h"
#include "server/rpc/tensor_codec.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;

v1::ModelState ToProto(ModelState state) {
  switch (state) {
    case ModelState::kAvailable:
      return v1::MODEL_STATE_AVAILABLE;
    case ModelState::kReady:
      return v1::MODEL_STATE_READY;
    case ModelState::kFailed:
      return v1::MODEL_STATE_FAILED;
  }
  return v1::MODEL_STATE_UNSPECIFIED;
}

v1::OperationState ToProto(OperationState state) {
  switch (state) {
    case OperationState::kRunning:
      return v1::OPERATION_STATE_RUNNING;
    case OperationState::kSucceeded:
      return v1::OPERATION_STATE_SUCCEEDED;
    case OperationState::kFailed:
      return v1::OPERATION_STATE_FAILED;
    case OperationState::kCancelled:
      return v1::OPERATION_STATE_CANCELLED;
  }
  return v1::OPERATION_STATE_UNSPECIFIED;
}

v1::Likelihood ToProto(LikelihoodKind likelihood) {
  switch (likelihood) {
    case LikelihoodKind::kCategorical:
      return v1::LIKELIHOOD_CATEGORICAL;
    case LikelihoodKind::kGaussian:
      return v1::LIKELIHOOD_GAUSSIAN;
    case LikelihoodKind::kBernoulli:
      return v1::LIKELIHOOD_BERNOULLI;
  }
  return v1::LIKELIHOOD_UNSPECIFIED;
}

v1::VarianceMode ToProto(VarianceMode mode) {
  switch (mode) {
    case VarianceMode::kAuto:
      return v1::VARIANCE_MODE_UNSPECIFIED;
    case VarianceMode::kExact:
      return v1::VARIANCE_MODE_EXACT;
    case VarianceMode::kTopClasses:
      return v1::VARIANCE_MODE_TOP_CLASSES;
    case VarianceMode::kSampled:
      return v1::VARIANCE_MODE_SAMPLED;
    case VarianceMode::kLastLayer:
      return v1::VARIANCE_MODE_LAST_LAYER;
  }
  return v1::VARIANCE_MODE_UNSPECIFIED;
}

// R, the outputs of an example that have a variance.
int64_t VarianceOutputs(const Prediction& prediction) {
  return prediction.variance.mode == VarianceMode::kTopClasses ? prediction.variance.top_classes
                                                               : prediction.outputs;
}

void FillTopClasses(const Prediction& prediction, v1::PredictResponse* response) {
  const int64_t b = prediction.batch;
  FillInt64Tensor(prediction.variance_outputs, {b, VarianceOutputs(prediction)},
                  response->mutable_variance_outputs());
  FillTensor(prediction.left_out_probability, {b}, response->mutable_left_out_probability());
  FillTensor(prediction.left_out_bound, {b}, response->mutable_left_out_bound());
}

void FillSpectrum(const PosteriorRecord& record, v1::Posterior* posterior) {
  posterior->mutable_biased_eigenvalues()->Assign(record.biased_eigenvalues.begin(),
                                                  record.biased_eigenvalues.end());
  posterior->mutable_eigenvalues()->Assign(record.eigenvalues.begin(), record.eigenvalues.end());
  posterior->mutable_standard_errors()->Assign(record.standard_errors.begin(),
                                               record.standard_errors.end());
  posterior->mutable_lanczos_residuals()->Assign(record.lanczos_residuals.begin(),
                                                 record.lanczos_residuals.end());
  posterior->set_residual(record.residual);
  posterior->set_trace(record.trace);
  posterior->set_trace_standard_error(record.trace_standard_error);
  posterior->set_residual_share(record.residual_share);
  posterior->set_curvature_count(record.curvature_count);
  posterior->set_clipped_directions(static_cast<int32_t>(record.clipped_directions));
}

void FillBlocks(const PosteriorRecord& record, v1::Posterior* posterior) {
  for (const ParameterBlockRecord& block : record.blocks) {
    auto* added = posterior->add_blocks();
    added->set_name(block.name);
    added->set_n_parameters(block.n_parameters);
    added->set_kind(block.kind);
    added->set_trace(block.trace);
    added->set_residual(block.residual);
    added->set_biased_sum(block.biased_sum);
    added->set_debiased_sum(block.debiased_sum);
  }
}

void FillValidation(const PosteriorRecord& record, v1::Posterior* posterior) {
  for (const PriorCandidateRecord& candidate : record.prior_candidates) {
    auto* added = posterior->add_prior_candidates();
    added->set_prior_precision(candidate.prior_precision);
    added->set_validation_nll(candidate.validation_nll);
    added->set_log_marginal_likelihood(candidate.log_marginal_likelihood);
  }
  posterior->set_validation_nll_map(record.validation_nll_map);
  for (const OodThresholdRecord& threshold : record.ood_thresholds) {
    auto* added = posterior->add_ood_thresholds();
    added->set_score(threshold.score);
    added->set_threshold(threshold.threshold);
    added->set_target_id_rate(threshold.target_id_rate);
    added->set_count(threshold.count);
    added->set_rate_lower(threshold.rate_lower);
    added->set_rate_upper(threshold.rate_upper);
    added->mutable_id_quantiles()->Assign(threshold.id_quantiles.begin(),
                                          threshold.id_quantiles.end());
  }
  posterior->set_default_ood_score(record.default_ood_score);
  posterior->mutable_available_ood_scores()->Assign(record.available_ood_scores.begin(),
                                                    record.available_ood_scores.end());
  posterior->set_calibration_dataset_id(record.calibration_dataset_id);
}

void FillFeatures(const FeatureRecord& record, v1::FeatureSummary* features) {
  features->set_layer(record.layer);
  features->set_n_features(record.n_features);
  features->set_count(record.count);
  features->set_bank_size(record.bank_size);
  features->set_knn_k(record.knn_k);
  features->set_vim_dimensions(record.vim_dimensions);
}

}  // namespace

void FillModel(const ModelInfo& info, v1::Model* model) {
  model->set_name(info.name);
  model->set_version(info.version);
  model->set_state(ToProto(info.state));
  model->set_state_message(ClientText(info.state_message));
  // What only the manifest says is unknown until a model is loaded.
  if (info.state == ModelState::kReady) model->set_likelihood(ToProto(info.likelihood));
  if (info.state == ModelState::kReady) model->set_input_dtype(ToProto(info.input_dtype));
  model->mutable_input_shape()->Assign(info.input_shape.begin(), info.input_shape.end());
  model->set_accepts_uint8(info.accepts_uint8);
  model->set_n_outputs(info.n_outputs);
  model->set_n_parameters(info.n_parameters);
  model->mutable_class_names()->Assign(info.class_names.begin(), info.class_names.end());
  model->set_n_data(info.n_data);
  model->set_weight_decay(info.weight_decay);
  model->set_bias_weight_decay(info.bias_weight_decay);
  model->set_sigma_noise(info.sigma_noise);
  model->set_checkpoint_sha256(info.checkpoint_sha256);
  model->set_active_posterior_id(info.active_posterior_id);
  model->mutable_captured_parameters()->Assign(info.captured_parameters.begin(),
                                               info.captured_parameters.end());
  model->mutable_generic_parameters()->Assign(info.generic_parameters.begin(),
                                              info.generic_parameters.end());
  model->mutable_last_layer_parameters()->Assign(info.last_layer_parameters.begin(),
                                                 info.last_layer_parameters.end());
  model->set_description(info.description);
  model->set_memory_bytes(info.memory_bytes);
}

void FillOperation(const OperationSnapshot& snapshot, v1::Operation* operation) {
  const OperationRecord& record = snapshot.record;
  operation->set_id(record.id);
  operation->set_state(ToProto(record.state));
  operation->set_description(record.description);
  operation->set_phase(snapshot.phase);
  operation->set_done(snapshot.done);
  operation->set_total(snapshot.total);
  operation->set_fraction(snapshot.fraction);
  operation->set_seconds_left(snapshot.seconds_left);
  operation->set_posterior_id(record.posterior_id);
  if (record.state == OperationState::kFailed) {
    operation->set_error_code(ToOperationErrorCode(record.error_code));
    operation->set_error_message(ClientText(record.error_message));
  }
  operation->set_start_time(record.start_time);
  operation->set_end_time(record.end_time);
  operation->set_model_version(record.model_version);
  operation->set_result(record.result);
}

void FillPosterior(const PosteriorRecord& record, const std::string& active_posterior_id,
                   v1::Posterior* posterior) {
  posterior->set_id(record.id);
  posterior->set_model(record.model);
  posterior->set_version(record.version);
  posterior->set_active(!record.id.empty() && record.id == active_posterior_id);
  FillFitOptions(record, posterior->mutable_options());
  posterior->set_n_data(record.n_data);
  posterior->set_n_parameters(record.n_parameters);
  posterior->set_rank(static_cast<int32_t>(record.rank));
  posterior->set_prior_precision(record.prior_precision);
  posterior->set_ood_prior_precision(record.ood_prior_precision);
  FillSpectrum(record, posterior);
  FillBlocks(record, posterior);
  posterior->set_log_marginal_likelihood(record.log_marginal_likelihood);
  posterior->set_effective_parameters(record.effective_parameters);
  posterior->set_mean_train_loss(record.mean_train_loss);
  FillValidation(record, posterior);
  if (!record.features.layer.empty()) FillFeatures(record.features, posterior->mutable_features());
  posterior->set_train_dataset_id(record.train_dataset_id);
  posterior->set_validation_dataset_id(record.validation_dataset_id);
  posterior->set_parent_posterior_id(record.parent_posterior_id);
  posterior->set_updated_examples(record.updated_examples);
  posterior->mutable_updated_dataset_ids()->Assign(record.updated_dataset_ids.begin(),
                                                   record.updated_dataset_ids.end());
  posterior->set_checkpoint_sha256(record.checkpoint_sha256);
  posterior->set_code_version(record.code_version);
  posterior->set_create_time(record.create_time);
  v1::FitCost* cost = posterior->mutable_cost();
  cost->set_seconds(record.fit_seconds);
  cost->set_curvature_products(record.curvature_products);
  cost->set_lanczos_seconds(record.lanczos_seconds);
  cost->set_curvature_seconds(record.curvature_seconds);
  cost->set_validation_seconds(record.validation_seconds);
  cost->set_peak_memory_bytes(record.peak_memory_bytes);
  posterior->set_mc_samples(static_cast<int32_t>(record.mc_samples));
  for (const std::string& warning : record.warnings) posterior->add_warnings(ClientText(warning));
}

void FillDataset(const DatasetInfo& info, v1::Dataset* dataset) {
  const DatasetHeader& header = info.header;
  dataset->set_id(info.id);
  dataset->set_n_rows(header.n_rows);
  dataset->set_input_dtype(ToProto(header.input_dtype));
  dataset->mutable_example_shape()->Assign(header.example_shape.begin(),
                                           header.example_shape.end());
  dataset->set_target_dtype(ToProto(header.target_dtype));
  dataset->mutable_target_shape()->Assign(header.target_shape.begin(), header.target_shape.end());
}

void FillScore(const ScoreValues& values, v1::OodScore* score) {
  score->set_name(values.name);
  score->mutable_values()->Assign(values.values.begin(), values.values.end());
  if (values.calibration == nullptr) return;
  const double threshold = values.calibration->threshold;
  score->set_threshold(threshold);
  score->set_target_id_rate(values.calibration->target_id_rate);
  score->mutable_is_ood()->Reserve(static_cast<int>(values.values.size()));
  for (const double value : values.values) score->add_is_ood(IsOod(value, threshold));
}

void FillPrediction(const Prediction& prediction, v1::PredictResponse* response) {
  const int64_t b = prediction.batch;
  const int64_t c = prediction.outputs;
  response->set_posterior_id(prediction.posterior_id);
  FillTensor(prediction.mean, {b, c}, response->mutable_mean());
  FillTensor(prediction.map_mean, {b, c}, response->mutable_map_mean());
  FillTensor(prediction.functional_mean, {b, c}, response->mutable_functional_mean());
  const int64_t r = VarianceOutputs(prediction);
  FillTensor(prediction.functional_variance, {b, r}, response->mutable_functional_variance());
  if (!prediction.functional_covariance.empty()) {
    FillTensor(prediction.functional_covariance, {b, r, r},
               response->mutable_functional_covariance());
  }
  if (!prediction.variance_outputs.empty()) FillTopClasses(prediction, response);
  if (!prediction.joint_covariance.empty()) {
    FillTensor(prediction.joint_covariance, {b, c, b, c}, response->mutable_joint_covariance());
  }
  if (!prediction.function_samples.empty()) {
    const auto draws = static_cast<int64_t>(prediction.function_samples.size()) / (b * c);
    FillTensor(prediction.function_samples, {draws, b, c}, response->mutable_function_samples());
  }
  std::vector<int64_t> parts_shape = {b};
  if (prediction.likelihood != LikelihoodKind::kCategorical) parts_shape.push_back(c);
  FillTensor(prediction.epistemic, parts_shape, response->mutable_epistemic());
  FillTensor(prediction.aleatoric, parts_shape, response->mutable_aleatoric());
  for (const ScoreValues& score : prediction.scores) FillScore(score, response->add_ood_scores());
  response->set_prior_precision(prediction.prior_precision);
  response->set_temperature(prediction.temperature);
  response->set_variance_mode(ToProto(prediction.variance.mode));
  response->set_top_classes(static_cast<int32_t>(prediction.variance.top_classes));
  response->set_samples(static_cast<int32_t>(prediction.variance.samples));
  response->set_variance_relative_error(prediction.variance.relative_error);
  response->set_estimated_flops(prediction.variance.estimated_flops);
}

void FillVariance(const VarianceReport& report, v1::ScoreResponse* response) {
  response->set_variance_mode(ToProto(report.mode));
  response->set_samples(static_cast<int32_t>(report.samples));
  response->set_estimated_flops(report.estimated_flops);
}

}  // namespace laplaced
