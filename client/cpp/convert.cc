// Models, data sets and operations; fits and posteriors are in convert_fit.cc, predictions in
// convert_prediction.cc.
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
    case v1::LIKELIHOOD_BERNOULLI:
      return Likelihood::kBernoulli;
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
  model.bias_weight_decay = message.bias_weight_decay();
  model.sigma_noise = message.sigma_noise();
  model.checkpoint_sha256 = message.checkpoint_sha256();
  model.active_posterior_id = message.active_posterior_id();
  model.captured_parameters = List<std::string>(message.captured_parameters());
  model.generic_parameters = List<std::string>(message.generic_parameters());
  model.last_layer_parameters = List<std::string>(message.last_layer_parameters());
  model.memory_bytes = message.memory_bytes();
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
  operation.model_version = message.model_version();
  operation.result = message.result();
  return operation;
}

}  // namespace laplace::client
