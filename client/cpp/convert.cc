// Models, data sets, operations, fits and posteriors; predictions are in convert_prediction.cc.
#include "client/cpp/convert.h"

namespace laplace::client {
namespace {

DType FromProto(v1::DataType dtype) {
  switch (dtype) {
    case v1::DATA_TYPE_FLOAT64:
      return DType::kFloat64;
    case v1::DATA_TYPE_UINT8:
      return DType::kUint8;
    case v1::DATA_TYPE_INT64:
      return DType::kInt64;
    default:
      return DType::kFloat32;
  }
}

Likelihood FromProto(v1::Likelihood likelihood) {
  switch (likelihood) {
    case v1::LIKELIHOOD_CATEGORICAL:
      return Likelihood::kCategorical;
    case v1::LIKELIHOOD_GAUSSIAN:
      return Likelihood::kGaussian;
    default:
      return Likelihood::kUnspecified;
  }
}

ModelState FromProto(v1::ModelState state) {
  switch (state) {
    case v1::MODEL_STATE_AVAILABLE:
      return ModelState::kAvailable;
    case v1::MODEL_STATE_READY:
      return ModelState::kReady;
    case v1::MODEL_STATE_FAILED:
      return ModelState::kFailed;
    default:
      return ModelState::kUnspecified;
  }
}

OperationState FromProto(v1::OperationState state) {
  switch (state) {
    case v1::OPERATION_STATE_RUNNING:
      return OperationState::kRunning;
    case v1::OPERATION_STATE_SUCCEEDED:
      return OperationState::kSucceeded;
    case v1::OPERATION_STATE_FAILED:
      return OperationState::kFailed;
    case v1::OPERATION_STATE_CANCELLED:
      return OperationState::kCancelled;
    default:
      return OperationState::kUnspecified;
  }
}

Debiasing FromProto(v1::DebiasingStrategy strategy) {
  switch (strategy) {
    case v1::DEBIASING_STRATEGY_NONE:
      return Debiasing::kNone;
    case v1::DEBIASING_STRATEGY_TWO_BATCH:
      return Debiasing::kTwoBatch;
    default:
      return Debiasing::kDefault;
  }
}

v1::DebiasingStrategy ToProto(Debiasing debiasing) {
  switch (debiasing) {
    case Debiasing::kNone:
      return v1::DEBIASING_STRATEGY_NONE;
    case Debiasing::kTwoBatch:
      return v1::DEBIASING_STRATEGY_TWO_BATCH;
    default:
      return v1::DEBIASING_STRATEGY_UNSPECIFIED;
  }
}

Residual FromProto(v1::ResidualKind kind) {
  switch (kind) {
    case v1::RESIDUAL_KIND_NONE:
      return Residual::kNone;
    case v1::RESIDUAL_KIND_ISOTROPIC:
      return Residual::kIsotropic;
    default:
      return Residual::kDefault;
  }
}

v1::ResidualKind ToProto(Residual residual) {
  switch (residual) {
    case Residual::kNone:
      return v1::RESIDUAL_KIND_NONE;
    case Residual::kIsotropic:
      return v1::RESIDUAL_KIND_ISOTROPIC;
    default:
      return v1::RESIDUAL_KIND_UNSPECIFIED;
  }
}

FitOptions FromProto(const v1::FitOptions& message) {
  FitOptions options;
  options.rank = message.rank();
  options.direction_batch_size = message.direction_batch_size();
  options.curvature_batch_size = message.curvature_batch_size();
  options.debiasing = FromProto(message.debiasing());
  options.residual = FromProto(message.residual());
  options.seed = message.seed();
  if (message.has_prior_precision()) options.prior_precision = message.prior_precision();
  if (message.has_ood_prior_precision()) {
    options.ood_prior_precision = message.ood_prior_precision();
  }
  options.lanczos_tolerance = message.lanczos_tolerance();
  options.max_products = message.max_products();
  options.target_id_rate = message.target_id_rate();
  options.max_validation_examples = message.max_validation_examples();
  return options;
}

v1::FitOptions ToProto(const FitOptions& options) {
  v1::FitOptions message;
  message.set_rank(options.rank);
  message.set_direction_batch_size(options.direction_batch_size);
  message.set_curvature_batch_size(options.curvature_batch_size);
  message.set_debiasing(ToProto(options.debiasing));
  message.set_residual(ToProto(options.residual));
  message.set_seed(options.seed);
  if (options.prior_precision) message.set_prior_precision(*options.prior_precision);
  if (options.ood_prior_precision) message.set_ood_prior_precision(*options.ood_prior_precision);
  message.set_lanczos_tolerance(options.lanczos_tolerance);
  message.set_max_products(options.max_products);
  message.set_target_id_rate(options.target_id_rate);
  message.set_max_validation_examples(options.max_validation_examples);
  return message;
}

template <typename T, typename Field>
std::vector<T> List(const Field& field) {
  return std::vector<T>(field.begin(), field.end());
}

}  // namespace

v1::DataType ToProto(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return v1::DATA_TYPE_FLOAT32;
    case DType::kFloat64:
      return v1::DATA_TYPE_FLOAT64;
    case DType::kUint8:
      return v1::DATA_TYPE_UINT8;
    case DType::kInt64:
      return v1::DATA_TYPE_INT64;
    case DType::kInt32:
      break;
  }
  return v1::DATA_TYPE_UNSPECIFIED;
}

v1::FitPosteriorRequest ToProto(const FitRequest& request) {
  v1::FitPosteriorRequest message;
  message.set_model(request.model);
  message.set_version(request.version);
  message.set_train_dataset_id(request.train_dataset_id);
  message.set_validation_dataset_id(request.validation_dataset_id);
  *message.mutable_options() = ToProto(request.options);
  message.set_keep_inactive(request.keep_inactive);
  return message;
}

Model FromProto(const v1::Model& message) {
  Model model;
  model.name = message.name();
  model.version = message.version();
  model.state = FromProto(message.state());
  model.state_message = message.state_message();
  model.likelihood = FromProto(message.likelihood());
  model.input_shape = List<int64_t>(message.input_shape());
  model.input_dtype = FromProto(message.input_dtype());
  model.accepts_uint8 = message.accepts_uint8();
  model.n_outputs = message.n_outputs();
  model.n_parameters = message.n_parameters();
  model.class_names = List<std::string>(message.class_names());
  model.n_data = message.n_data();
  model.weight_decay = message.weight_decay();
  model.sigma_noise = message.sigma_noise();
  model.checkpoint_sha256 = message.checkpoint_sha256();
  model.active_posterior_id = message.active_posterior_id();
  model.captured_parameters = List<std::string>(message.captured_parameters());
  model.generic_parameters = List<std::string>(message.generic_parameters());
  model.description = message.description();
  return model;
}

Dataset FromProto(const v1::Dataset& message) {
  Dataset dataset;
  dataset.id = message.id();
  dataset.n_rows = message.n_rows();
  dataset.input_dtype = FromProto(message.input_dtype());
  dataset.example_shape = List<int64_t>(message.example_shape());
  dataset.target_dtype = FromProto(message.target_dtype());
  dataset.target_shape = List<int64_t>(message.target_shape());
  return dataset;
}

Operation FromProto(const v1::Operation& message) {
  Operation operation;
  operation.id = message.id();
  operation.state = FromProto(message.state());
  operation.description = message.description();
  operation.phase = message.phase();
  operation.done = message.done();
  operation.total = message.total();
  operation.fraction = message.fraction();
  operation.seconds_left = message.seconds_left();
  operation.posterior_id = message.posterior_id();
  operation.error_code = static_cast<absl::StatusCode>(message.error_code());
  operation.error_message = message.error_message();
  operation.start_time = message.start_time();
  operation.end_time = message.end_time();
  return operation;
}

Posterior FromProto(const v1::Posterior& message) {
  Posterior posterior;
  posterior.id = message.id();
  posterior.model = message.model();
  posterior.version = message.version();
  posterior.active = message.active();
  posterior.options = FromProto(message.options());
  posterior.n_data = message.n_data();
  posterior.n_parameters = message.n_parameters();
  posterior.rank = message.rank();
  posterior.prior_precision = message.prior_precision();
  posterior.ood_prior_precision = message.ood_prior_precision();
  posterior.biased_eigenvalues = List<double>(message.biased_eigenvalues());
  posterior.eigenvalues = List<double>(message.eigenvalues());
  posterior.standard_errors = List<double>(message.standard_errors());
  posterior.lanczos_residuals = List<double>(message.lanczos_residuals());
  posterior.residual = message.residual();
  posterior.trace = message.trace();
  posterior.trace_standard_error = message.trace_standard_error();
  posterior.log_marginal_likelihood = message.log_marginal_likelihood();
  posterior.effective_parameters = message.effective_parameters();
  posterior.mean_train_loss = message.mean_train_loss();
  for (const v1::PriorCandidate& candidate : message.prior_candidates()) {
    posterior.prior_candidates.push_back({candidate.prior_precision(), candidate.validation_nll()});
  }
  posterior.validation_nll_map = message.validation_nll_map();
  for (const v1::OodThreshold& threshold : message.ood_thresholds()) {
    posterior.ood_thresholds.push_back({threshold.score(), threshold.threshold(),
                                        threshold.target_id_rate(), threshold.count(),
                                        threshold.rate_lower(), threshold.rate_upper()});
  }
  posterior.default_ood_score = message.default_ood_score();
  posterior.train_dataset_id = message.train_dataset_id();
  posterior.validation_dataset_id = message.validation_dataset_id();
  posterior.checkpoint_sha256 = message.checkpoint_sha256();
  posterior.code_version = message.code_version();
  posterior.create_time = message.create_time();
  posterior.cost = {message.cost().seconds(), message.cost().curvature_products(),
                    message.cost().lanczos_seconds(), message.cost().curvature_seconds(),
                    message.cost().validation_seconds()};
  posterior.mc_samples = message.mc_samples();
  posterior.warnings = List<std::string>(message.warnings());
  return posterior;
}

}  // namespace laplace::client
