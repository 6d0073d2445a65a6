#include "tests/client/fake_server.h"

#include <cstring>
#include <deque>
#include <mutex>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/types/optional.h"
#include "formats/dataset_id.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "laplace/v1/model.grpc.pb.h"
#include "laplace/v1/operation.grpc.pb.h"
#include "laplace/v1/posterior.grpc.pb.h"
#include "laplace/v1/prediction.grpc.pb.h"

namespace laplace::client {
namespace {

grpc::Status WithDetail(grpc::StatusCode code, const std::string& message,
                        const google::protobuf::Message& detail) {
  google::rpc::Status status;
  status.set_code(code);
  status.set_message(message);
  status.add_details()->PackFrom(detail);
  return grpc::Status(code, message, status.SerializeAsString());
}

v1::Model DigitsModel() {
  v1::Model model;
  model.set_name("digits");
  model.set_version(3);
  model.set_state(v1::MODEL_STATE_READY);
  model.set_likelihood(v1::LIKELIHOOD_CATEGORICAL);
  model.add_input_shape(1);
  model.add_input_shape(2);
  model.set_input_dtype(v1::DATA_TYPE_FLOAT32);
  model.set_accepts_uint8(true);
  model.set_n_outputs(3);
  model.set_n_parameters(12345);
  for (const char* name : {"zero", "one", "two"}) model.add_class_names(name);
  model.set_n_data(60);
  model.set_weight_decay(0.001);
  model.set_bias_weight_decay(0.002);
  for (const char* name : {"head.weight", "head.bias"}) model.add_last_layer_parameters(name);
  model.set_checkpoint_sha256("0123456789abcdef");
  model.set_active_posterior_id("p-1");
  model.set_description("made for tests");
  return model;
}

v1::Posterior DigitsPosterior(const std::string& id) {
  v1::Posterior posterior;
  posterior.set_id(id);
  posterior.set_model("digits");
  posterior.set_version(3);
  posterior.set_active(id == "p-1");
  posterior.mutable_options()->set_rank(2);
  posterior.mutable_options()->set_debiasing(v1::DEBIASING_STRATEGY_TWO_BATCH);
  posterior.mutable_options()->set_residual(v1::RESIDUAL_KIND_ISOTROPIC);
  posterior.set_n_data(60);
  posterior.set_n_parameters(12345);
  posterior.set_rank(2);
  posterior.set_prior_precision(0.5);
  for (double value : {4.0, 2.0}) posterior.add_biased_eigenvalues(value);
  for (double value : {2.0, 1.5}) posterior.add_eigenvalues(value);
  for (double value : {0.1, 0.2}) posterior.add_standard_errors(value);
  posterior.set_checkpoint_sha256("0123456789abcdef");
  posterior.set_default_ood_score("variance");
  posterior.set_create_time("2024-05-01T10:15:00Z");
  posterior.add_warnings("only a fake");
  return posterior;
}

void SetFloats(const std::vector<int64_t>& shape, const std::vector<float>& values,
               v1::Tensor& tensor) {
  tensor.set_dtype(v1::DATA_TYPE_FLOAT32);
  tensor.mutable_shape()->Add(shape.begin(), shape.end());
  tensor.mutable_float32_values()->Add(values.begin(), values.end());
}

::laplaced::DType DTypeOf(v1::DataType dtype) {
  switch (dtype) {
    case v1::DATA_TYPE_FLOAT64:
      return ::laplaced::DType::kFloat64;
    case v1::DATA_TYPE_UINT8:
      return ::laplaced::DType::kUint8;
    case v1::DATA_TYPE_INT64:
      return ::laplaced::DType::kInt64;
    default:
      return ::laplaced::DType::kFloat32;
  }
}

// Two uint8 pixels of every row.
// Bytes, or floats that hold whole numbers of that range.
std::vector<uint8_t> Pixels(const v1::Tensor& inputs) {
  const std::string& bytes = inputs.raw_values();
  if (inputs.dtype() != v1::DATA_TYPE_FLOAT32) return {bytes.begin(), bytes.end()};
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return {values.begin(), values.end()};
}

template <typename Response>
void AddVariance(const std::vector<uint8_t>& pixels, Response& response) {
  v1::OodScore& score = *response.add_ood_scores();
  score.set_name("variance");
  score.set_threshold(100);
  score.set_target_id_rate(0.05);
  for (size_t i = 1; i < pixels.size(); i += 2) {
    score.add_values(pixels[i]);
    score.add_is_ood(pixels[i] > 100);
  }
}

// The scores that a request names, or `variance`. Any other one is the first pixel, without a
// threshold.
template <typename Request, typename Response>
void AddNamedScores(const Request& request, const std::vector<uint8_t>& pixels,
                    Response& response) {
  if (request.ood_scores().empty()) AddVariance(pixels, response);
  for (const std::string& name : request.ood_scores()) {
    if (name == "variance") {
      AddVariance(pixels, response);
      continue;
    }
    v1::OodScore& score = *response.add_ood_scores();
    score.set_name(name);
    for (size_t i = 0; i < pixels.size(); i += 2) score.add_values(pixels[i]);
  }
}

}  // namespace

grpc::Status ErrorWithField(grpc::StatusCode code, const std::string& message,
                            const std::string& field, const std::string& description) {
  google::rpc::BadRequest bad_request;
  auto* violation = bad_request.add_field_violations();
  violation->set_field(field);
  violation->set_description(description);
  return WithDetail(code, message, bad_request);
}

grpc::Status ErrorWithRetryDelay(grpc::StatusCode code, const std::string& message,
                                 absl::Duration delay) {
  google::rpc::RetryInfo retry_info;
  const int64_t nanos = absl::ToInt64Nanoseconds(delay);
  retry_info.mutable_retry_delay()->set_seconds(nanos / 1000000000);
  retry_info.mutable_retry_delay()->set_nanos(nanos % 1000000000);
  return WithDetail(code, message, retry_info);
}

// What was asked for, or else `chosen`.
template <typename Request>
v1::VarianceMode ModeOf(const Request& request, v1::VarianceMode chosen) {
  const bool open = request.variance_mode() == v1::VARIANCE_MODE_UNSPECIFIED ||
                    request.variance_mode() == v1::VARIANCE_MODE_AUTO;
  return open ? chosen : request.variance_mode();
}

void AddMode(const v1::PredictRequest& request, const std::vector<uint8_t>& pixels,
             v1::PredictResponse& response) {
  response.set_samples(request.samples());
  response.set_variance_relative_error(request.samples() > 0 ? 0.25 : 0);
  response.set_estimated_flops(1000);
  response.set_temperature(request.has_temperature() ? request.temperature() : 1);
  const int64_t rows = pixels.size() / 2;
  if (request.variance_mode() == v1::VARIANCE_MODE_TOP_CLASSES) {
    const std::vector<int64_t> outputs(rows, 1);
    v1::Tensor& tensor = *response.mutable_variance_outputs();
    tensor.set_dtype(v1::DATA_TYPE_INT64);
    tensor.add_shape(rows);
    tensor.add_shape(1);
    tensor.set_raw_values(outputs.data(), outputs.size() * sizeof(int64_t));
    response.set_top_classes(1);
    response.clear_functional_variance();
    SetFloats({rows, 1}, std::vector<float>(rows, 2), *response.mutable_functional_variance());
    SetFloats({rows}, std::vector<float>(rows, 0.125f), *response.mutable_left_out_probability());
    SetFloats({rows}, std::vector<float>(rows, 0.25f), *response.mutable_left_out_bound());
  }
  if (request.return_joint_covariance()) {
    std::vector<float> joint(rows * 3 * rows * 3);
    for (size_t i = 0; i < joint.size(); ++i) joint[i] = static_cast<float>(i);
    SetFloats({rows, 3, rows, 3}, joint, *response.mutable_joint_covariance());
  }
  if (request.return_samples() > 0) {
    std::vector<float> samples;
    for (int64_t draw = 0; draw < request.return_samples(); ++draw) {
      for (int64_t row = 0; row < rows; ++row) {
        samples.insert(samples.end(), 3, static_cast<float>(1000 * draw + pixels[2 * row + 1]));
      }
    }
    SetFloats({request.return_samples(), rows, 3}, samples, *response.mutable_function_samples());
  }
}

struct FakeServer::State final : v1::ModelService::Service,
                                 v1::PosteriorService::Service,
                                 v1::OperationService::Service,
                                 v1::PredictionService::Service {
  std::string address;
  std::unique_ptr<grpc::Server> server;

  mutable std::mutex mutex;
  std::map<std::string, std::deque<grpc::Status>> failures;
  std::map<std::string, absl::Duration> delays;
  std::map<std::string, int> calls;
  std::map<std::string, v1::Dataset> datasets;
  LastUpload last_upload;
  v1::FitPosteriorRequest last_fit;
  v1::UpdatePosteriorRequest last_update;
  v1::CalibrateOodRequest last_calibration;
  v1::Model model = DigitsModel();
  std::vector<std::function<void(v1::Posterior&)>> posterior_changes;
  v1::PredictRequest last_predict;
  std::unique_ptr<v1::PredictResponse> prediction;
  v1::ModelState model_state = v1::MODEL_STATE_READY;
  std::string model_message;
  std::vector<v1::Operation> operation_list;
  std::vector<v1::Operation> script;
  size_t script_position = 0;
  std::deque<std::pair<int, grpc::Status>> watch_drops;
  std::deque<StreamFault> stream_faults;
  absl::optional<StreamFault> every_stream;
  std::vector<StreamRecord> streams;
  std::string active_posterior = "p-1";
  v1::VarianceMode chosen_mode = v1::VARIANCE_MODE_EXACT;
  bool until_cancelled = false;
  bool cancelled = false;

  State() {
    v1::Operation operation;
    operation.set_id("op-1");
    operation.set_state(v1::OPERATION_STATE_SUCCEEDED);
    operation.set_description("fit digits/3");
    operation.set_fraction(1);
    operation.set_posterior_id("p-1");
    operation_list.push_back(operation);
  }

  v1::Model Model() const {
    const std::lock_guard<std::mutex> lock(mutex);
    v1::Model described = model;
    if (model_state != v1::MODEL_STATE_READY) {
      described.Clear();
      described.set_name("digits");
      described.set_version(3);
    }
    described.set_state(model_state);
    described.set_state_message(model_message);
    return described;
  }

  // Counts the call, waits, and says how it ends.
  grpc::Status Enter(const std::string& method, grpc::ServerContext* context) {
    absl::Duration delay;
    grpc::Status status;
    {
      const std::lock_guard<std::mutex> lock(mutex);
      ++calls[method];
      if (const auto found = delays.find(method); found != delays.end()) delay = found->second;
      std::deque<grpc::Status>& queue = failures[method];
      if (!queue.empty()) {
        status = queue.front();
        queue.pop_front();
      }
    }
    const absl::Time end = absl::Now() + delay;
    while (absl::Now() < end && !context->IsCancelled()) absl::SleepFor(absl::Milliseconds(2));
    return status;
  }

  grpc::Status ListModels(grpc::ServerContext* context, const v1::ListModelsRequest*,
                          v1::ListModelsResponse* response) override {
    *response->add_models() = Model();
    v1::Model& other = *response->add_models();
    other.set_name("shirts");
    other.set_version(1);
    other.set_state(v1::MODEL_STATE_AVAILABLE);
    return Enter("ListModels", context);
  }

  grpc::Status GetModel(grpc::ServerContext* context, const v1::GetModelRequest* request,
                        v1::GetModelResponse* response) override {
    *response->mutable_model() = Model();
    if (grpc::Status status = Enter("GetModel", context); !status.ok()) return status;
    return Known(request->name());
  }

  grpc::Status LoadModel(grpc::ServerContext* context, const v1::LoadModelRequest* request,
                         v1::LoadModelResponse* response) override {
    *response->mutable_model() = Model();
    if (grpc::Status status = Enter("LoadModel", context); !status.ok()) return status;
    return Known(request->name());
  }

  grpc::Status UnloadModel(grpc::ServerContext* context, const v1::UnloadModelRequest* request,
                           v1::UnloadModelResponse*) override {
    if (grpc::Status status = Enter("UnloadModel", context); !status.ok()) return status;
    return Known(request->name());
  }

  static grpc::Status Known(const std::string& name) {
    if (name == "digits") return grpc::Status::OK;
    return grpc::Status(grpc::StatusCode::NOT_FOUND, absl::StrCat("no model named '", name, "'"));
  }

  grpc::Status FitPosterior(grpc::ServerContext* context, const v1::FitPosteriorRequest* request,
                            v1::FitPosteriorResponse* response) override {
    response->mutable_operation()->set_id("op-1");
    response->mutable_operation()->set_state(v1::OPERATION_STATE_RUNNING);
    if (grpc::Status status = Enter("FitPosterior", context); !status.ok()) return status;
    const std::lock_guard<std::mutex> lock(mutex);
    last_fit = *request;
    return grpc::Status::OK;
  }

  grpc::Status UpdatePosterior(grpc::ServerContext* context,
                               const v1::UpdatePosteriorRequest* request,
                               v1::UpdatePosteriorResponse* response) override {
    response->mutable_operation()->set_id("op-2");
    response->mutable_operation()->set_state(v1::OPERATION_STATE_RUNNING);
    if (grpc::Status status = Enter("UpdatePosterior", context); !status.ok()) return status;
    const std::lock_guard<std::mutex> lock(mutex);
    last_update = *request;
    return grpc::Status::OK;
  }

  grpc::Status CalibrateOod(grpc::ServerContext* context, const v1::CalibrateOodRequest* request,
                            v1::CalibrateOodResponse* response) override {
    response->mutable_operation()->set_id("op-3");
    response->mutable_operation()->set_state(v1::OPERATION_STATE_RUNNING);
    if (grpc::Status status = Enter("CalibrateOod", context); !status.ok()) return status;
    const std::lock_guard<std::mutex> lock(mutex);
    last_calibration = *request;
    return grpc::Status::OK;
  }

  grpc::Status ListPosteriors(grpc::ServerContext* context,
                              const v1::ListPosteriorsRequest* request,
                              v1::ListPosteriorsResponse* response) override {
    *response->add_posteriors() = DigitsPosterior("p-1");
    *response->add_posteriors() = DigitsPosterior("p-0");
    if (grpc::Status status = Enter("ListPosteriors", context); !status.ok()) return status;
    return Known(request->model());
  }

  grpc::Status GetPosterior(grpc::ServerContext* context, const v1::GetPosteriorRequest* request,
                            v1::GetPosteriorResponse* response) override {
    const std::string& id = request->posterior_id();
    *response->mutable_posterior() = DigitsPosterior(id.empty() ? "p-1" : id);
    {
      const std::lock_guard<std::mutex> lock(mutex);
      response->mutable_posterior()->set_train_dataset_id(last_fit.train_dataset_id());
      response->mutable_posterior()->set_validation_dataset_id(last_fit.validation_dataset_id());
      for (const auto& change : posterior_changes) change(*response->mutable_posterior());
    }
    return Enter("GetPosterior", context);
  }

  grpc::Status ActivatePosterior(grpc::ServerContext* context,
                                 const v1::ActivatePosteriorRequest* request,
                                 v1::ActivatePosteriorResponse* response) override {
    *response->mutable_posterior() = DigitsPosterior(request->posterior_id());
    return Enter("ActivatePosterior", context);
  }

  grpc::Status DeletePosterior(grpc::ServerContext* context,
                               const v1::DeletePosteriorRequest* request,
                               v1::DeletePosteriorResponse*) override {
    if (grpc::Status status = Enter("DeletePosterior", context); !status.ok()) return status;
    if (request->posterior_id() == "p-0") return grpc::Status::OK;
    return grpc::Status(grpc::StatusCode::NOT_FOUND, "no such posterior");
  }

  grpc::Status GetDataset(grpc::ServerContext* context, const v1::GetDatasetRequest* request,
                          v1::GetDatasetResponse* response) override {
    if (grpc::Status status = Enter("GetDataset", context); !status.ok()) return status;
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = datasets.find(request->id());
    if (found == datasets.end()) return grpc::Status(grpc::StatusCode::NOT_FOUND, "no such data");
    *response->mutable_dataset() = found->second;
    return grpc::Status::OK;
  }

  grpc::Status UploadDataset(grpc::ServerContext* context,
                             grpc::ServerReader<v1::UploadDatasetRequest>* reader,
                             v1::UploadDatasetResponse* response) override;

  grpc::Status GetOperation(grpc::ServerContext* context, const v1::GetOperationRequest* request,
                            v1::GetOperationResponse* response) override {
    response->mutable_operation()->set_id(request->id());
    response->mutable_operation()->set_state(v1::OPERATION_STATE_RUNNING);
    return Enter("GetOperation", context);
  }

  grpc::Status ListOperations(grpc::ServerContext* context, const v1::ListOperationsRequest*,
                              v1::ListOperationsResponse* response) override {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      response->mutable_operations()->Add(operation_list.begin(), operation_list.end());
    }
    return Enter("ListOperations", context);
  }

  grpc::Status WatchOperation(grpc::ServerContext* context,
                              const v1::WatchOperationRequest* request,
                              grpc::ServerWriter<v1::WatchOperationResponse>* writer) override;

  grpc::Status CancelOperation(grpc::ServerContext* context,
                               const v1::CancelOperationRequest* request,
                               v1::CancelOperationResponse* response) override {
    response->mutable_operation()->set_id(request->id());
    response->mutable_operation()->set_state(v1::OPERATION_STATE_RUNNING);
    if (grpc::Status status = Enter("CancelOperation", context); !status.ok()) return status;
    const std::lock_guard<std::mutex> lock(mutex);
    cancelled = true;
    return grpc::Status::OK;
  }

  grpc::Status Predict(grpc::ServerContext* context, const v1::PredictRequest* request,
                       v1::PredictResponse* response) override;

  grpc::Status Score(grpc::ServerContext* context, const v1::ScoreRequest* request,
                     v1::ScoreResponse* response) override {
    if (grpc::Status status = Enter("Score", context); !status.ok()) return status;
    const std::lock_guard<std::mutex> lock(mutex);
    AnswerScores(*request, request->inputs(), *response);
    return Known(request->model());
  }

  grpc::Status PredictStream(grpc::ServerContext* context,
                             grpc::ServerReaderWriter<v1::PredictStreamResponse,
                                                      v1::PredictStreamRequest>* stream) override;

  // The mutex is held for these two.
  void AnswerScores(const v1::ScoreRequest& request, const v1::Tensor& inputs,
                    v1::ScoreResponse& response) const;
  void AnswerPrediction(const v1::PredictRequest& request, const v1::Tensor& inputs,
                        v1::PredictResponse& response) const;
};

grpc::Status FakeServer::State::UploadDataset(grpc::ServerContext* context,
                                              grpc::ServerReader<v1::UploadDatasetRequest>* reader,
                                              v1::UploadDatasetResponse* response) {
  if (grpc::Status status = Enter("UploadDataset", context); !status.ok()) return status;
  LastUpload upload;
  v1::UploadDatasetRequest request;
  while (reader->Read(&request)) {
    if (request.has_header()) {
      upload.header = request.header();
      continue;
    }
    upload.chunk_rows.push_back(request.chunk().inputs().shape(0));
    upload.input_bytes += request.chunk().inputs().raw_values();
    upload.target_bytes += request.chunk().targets().raw_values();
  }
  // The real server hashes the rows as they come; so does this one.
  ::laplaced::DatasetHeader header;
  header.input_dtype = DTypeOf(upload.header.input_dtype());
  header.example_shape.assign(upload.header.example_shape().begin(),
                              upload.header.example_shape().end());
  header.target_dtype = DTypeOf(upload.header.target_dtype());
  header.target_shape.assign(upload.header.target_shape().begin(),
                             upload.header.target_shape().end());
  header.n_rows = upload.header.n_rows();
  ::laplaced::DatasetHasher hasher(header);
  hasher.Update(upload.input_bytes.data(), upload.input_bytes.size(), upload.target_bytes.data(),
                upload.target_bytes.size());
  v1::Dataset& dataset = *response->mutable_dataset();
  dataset.set_id(hasher.Finish());
  dataset.set_n_rows(header.n_rows);
  const std::lock_guard<std::mutex> lock(mutex);
  datasets[dataset.id()] = dataset;
  last_upload = upload;
  return grpc::Status::OK;
}

grpc::Status FakeServer::State::WatchOperation(
    grpc::ServerContext* context, const v1::WatchOperationRequest* request,
    grpc::ServerWriter<v1::WatchOperationResponse>* writer) {
  if (grpc::Status status = Enter("WatchOperation", context); !status.ok()) return status;
  int allowed = -1;
  grpc::Status drop_status;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    if (!watch_drops.empty()) {
      std::tie(allowed, drop_status) = watch_drops.front();
      watch_drops.pop_front();
    }
  }
  for (int sent = 0; !context->IsCancelled(); ++sent) {
    if (sent == allowed) return drop_status;
    v1::WatchOperationResponse response;
    {
      const std::lock_guard<std::mutex> lock(mutex);
      if (script_position >= script.size()) return grpc::Status::OK;
      *response.mutable_operation() = script[script_position];
      if (!until_cancelled) ++script_position;
      if (until_cancelled && cancelled) {
        response.mutable_operation()->set_state(v1::OPERATION_STATE_CANCELLED);
      }
    }
    response.mutable_operation()->set_id(request->id());
    writer->Write(response);
    if (response.operation().state() != v1::OPERATION_STATE_RUNNING) return grpc::Status::OK;
    if (until_cancelled) absl::SleepFor(absl::Milliseconds(5));
  }
  return grpc::Status::CANCELLED;
}

grpc::Status FakeServer::State::Predict(grpc::ServerContext* context,
                                        const v1::PredictRequest* request,
                                        v1::PredictResponse* response) {
  if (grpc::Status status = Enter("Predict", context); !status.ok()) return status;
  const std::lock_guard<std::mutex> lock(mutex);
  last_predict = *request;
  if (prediction) {
    *response = *prediction;
    return grpc::Status::OK;
  }
  AnswerPrediction(*request, request->inputs(), *response);
  return Known(request->model());
}

void FakeServer::State::AnswerScores(const v1::ScoreRequest& request, const v1::Tensor& inputs,
                                     v1::ScoreResponse& response) const {
  response.set_model("digits");
  response.set_version(3);
  response.set_posterior_id(active_posterior);
  response.set_variance_mode(ModeOf(request, chosen_mode));
  AddNamedScores(request, Pixels(inputs), response);
}

void FakeServer::State::AnswerPrediction(const v1::PredictRequest& request,
                                         const v1::Tensor& inputs,
                                         v1::PredictResponse& response) const {
  const std::vector<uint8_t> pixels = Pixels(inputs);
  const int64_t rows = pixels.size() / 2;
  std::vector<float> mean(rows * 3, 0.1f);
  std::vector<float> map_mean(rows * 3, 0.05f);
  for (int64_t row = 0; row < rows; ++row) {
    mean[row * 3 + pixels[2 * row] % 3] = 0.8f;
    map_mean[row * 3 + pixels[2 * row] % 3] = 0.9f;
  }
  response.set_model("digits");
  response.set_version(3);
  response.set_posterior_id(active_posterior);
  response.set_prior_precision(0.5);
  SetFloats({rows, 3}, mean, *response.mutable_mean());
  SetFloats({rows, 3}, map_mean, *response.mutable_map_mean());
  SetFloats({rows, 3}, std::vector<float>(rows * 3, 1), *response.mutable_functional_mean());
  SetFloats({rows, 3}, std::vector<float>(rows * 3, 2), *response.mutable_functional_variance());
  SetFloats({rows}, std::vector<float>(rows, 0.25f), *response.mutable_epistemic());
  SetFloats({rows}, std::vector<float>(rows, 0.75f), *response.mutable_aleatoric());
  AddNamedScores(request, pixels, response);
  response.set_variance_mode(ModeOf(request, chosen_mode));
  AddMode(request, pixels, response);
}

grpc::Status FakeServer::State::PredictStream(
    grpc::ServerContext* context,
    grpc::ServerReaderWriter<v1::PredictStreamResponse, v1::PredictStreamRequest>* stream) {
  if (grpc::Status status = Enter("PredictStream", context); !status.ok()) return status;
  v1::PredictStreamRequest request;
  if (!stream->Read(&request) || !request.has_start()) {
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "start: expected first");
  }
  const v1::PredictStreamStart start = request.start();
  absl::optional<StreamFault> fault;
  size_t number = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    number = streams.size();
    streams.push_back({start, {}});
    fault = every_stream;
    if (!stream_faults.empty()) {
      fault = stream_faults.front();
      stream_faults.pop_front();
    }
    if (!start.posterior_id().empty() && start.posterior_id() != active_posterior) {
      return grpc::Status(grpc::StatusCode::FAILED_PRECONDITION,
                          absl::StrCat("start.posterior_id: expected ", active_posterior, ", got ",
                                       start.posterior_id()));
    }
  }
  const std::string& name = start.has_score() ? start.score().model() : start.predict().model();
  if (grpc::Status status = Known(name); !status.ok()) return status;
  int64_t row = start.first_row();
  for (int answers = 0;; ++answers) {
    if (fault && answers == fault->answers) break;
    if (!stream->Read(&request)) return grpc::Status::OK;
    v1::PredictStreamResponse response;
    response.set_first_row(row + (fault ? fault->row_shift : 0));
    row += request.inputs().shape(0);
    {
      const std::lock_guard<std::mutex> lock(mutex);
      streams[number].batch_rows.push_back(request.inputs().shape(0));
      if (start.has_score()) {
        AnswerScores(start.score(), request.inputs(), *response.mutable_score());
      } else {
        AnswerPrediction(start.predict(), request.inputs(), *response.mutable_predict());
      }
    }
    if (fault && !fault->posterior_id.empty()) {
      response.mutable_score()->set_posterior_id(fault->posterior_id);
    }
    stream->Write(response);
  }
  for (int i = 0; i < fault->reads && stream->Read(&request); ++i) {
  }
  while (fault->silent && !context->IsCancelled()) absl::SleepFor(absl::Milliseconds(2));
  return fault->status;
}

FakeServer::FakeServer(const std::string& listen) : state_(std::make_unique<State>()) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  int port = 0;
  // As the real server: pings that keep a quiet stream alive are welcome.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10 * 1000);
  builder.AddListeningPort(listen, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(static_cast<v1::ModelService::Service*>(state_.get()));
  builder.RegisterService(static_cast<v1::PosteriorService::Service*>(state_.get()));
  builder.RegisterService(static_cast<v1::OperationService::Service*>(state_.get()));
  builder.RegisterService(static_cast<v1::PredictionService::Service*>(state_.get()));
  state_->server = builder.BuildAndStart();
  state_->address = absl::StrCat("127.0.0.1:", port);
}

FakeServer::~FakeServer() { state_->server->Shutdown(std::chrono::system_clock::now()); }

std::string FakeServer::address() const { return state_->address; }

void FakeServer::FailNext(const std::string& method, const grpc::Status& status) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->failures[method].push_back(status);
}

void FakeServer::Delay(const std::string& method, absl::Duration delay) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->delays[method] = delay;
}

int FakeServer::Calls(const std::string& method) const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->calls[method];
}

void FakeServer::SetOperationScript(std::vector<v1::Operation> script) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->script = std::move(script);
  state_->script_position = 0;
}

void FakeServer::DropNextWatch(int messages, const grpc::Status& status) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->watch_drops.emplace_back(messages, status);
}

void FakeServer::RunUntilCancelled() {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->until_cancelled = true;
}

std::vector<std::string> FakeServer::DatasetIds() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  std::vector<std::string> ids;
  for (const auto& [id, dataset] : state_->datasets) ids.push_back(id);
  return ids;
}

FakeServer::LastUpload FakeServer::Upload() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->last_upload;
}

v1::FitPosteriorRequest FakeServer::LastFit() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->last_fit;
}

void FakeServer::FaultNextStream(const StreamFault& fault) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->stream_faults.push_back(fault);
}

void FakeServer::FaultEveryStream(const StreamFault& fault) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->every_stream = fault;
}

std::vector<FakeServer::StreamRecord> FakeServer::Streams() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->streams;
}

void FakeServer::SetActivePosterior(const std::string& id) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->active_posterior = id;
}

void FakeServer::SetChosenMode(v1::VarianceMode mode) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->chosen_mode = mode;
}

v1::CalibrateOodRequest FakeServer::LastCalibration() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->last_calibration;
}

v1::PredictRequest FakeServer::LastPredict() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->last_predict;
}

v1::UpdatePosteriorRequest FakeServer::LastUpdate() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->last_update;
}

void FakeServer::ChangeModel(const std::function<void(v1::Model&)>& change) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  change(state_->model);
}

void FakeServer::ChangePosterior(const std::function<void(v1::Posterior&)>& change) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->posterior_changes.push_back(change);
}

void FakeServer::SetPrediction(const v1::PredictResponse& response) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->prediction = std::make_unique<v1::PredictResponse>(response);
}

void FakeServer::SetModelState(v1::ModelState state, const std::string& message) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->model_state = state;
  state_->model_message = message;
}

void FakeServer::SetOperations(std::vector<v1::Operation> operations) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->operation_list = std::move(operations);
}

void FakeServer::SetServing(bool serving) {
  state_->server->GetHealthCheckService()->SetServingStatus(serving);
}

}  // namespace laplace::client
