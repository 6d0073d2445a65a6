#include "client/cpp/client.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cpp/channel.h"
#include "client/cpp/client_impl.h"
#include "client/cpp/convert.h"

namespace laplace::client {
namespace {

absl::Status CheckOptions(const ClientOptions& options) {
  const std::pair<const char*, absl::Duration> durations[] = {
      {"timeout", options.timeout},
      {"load_timeout", options.load_timeout},
      {"predict_timeout", options.predict_timeout},
      {"upload_timeout", options.upload_timeout},
      {"operation_timeout", options.operation_timeout},
      {"watch_timeout", options.watch_timeout},
      {"stream_timeout", options.stream_timeout}};
  for (const auto& [name, value] : durations) {
    if (value <= absl::ZeroDuration() || value == absl::InfiniteDuration()) {
      return absl::InvalidArgumentError(absl::StrCat(
          name, ": expected a positive, finite time, got ", absl::FormatDuration(value)));
    }
  }
  if (options.retry.max_attempts < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("retry.max_attempts: expected at least 1, got ", options.retry.max_attempts));
  }
  if (options.retry.initial_backoff < absl::ZeroDuration() ||
      options.retry.max_backoff < options.retry.initial_backoff) {
    return absl::InvalidArgumentError("retry: expected 0 <= initial_backoff <= max_backoff");
  }
  if (!(options.retry.multiplier >= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("retry.multiplier: expected at least 1, got ", options.retry.multiplier));
  }
  if (options.upload_chunk_bytes < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("upload_chunk_bytes: expected at least 1, got ", options.upload_chunk_bytes));
  }
  return absl::OkStatus();
}

template <typename Request>
Request ForModel(const std::string& name, int64_t version) {
  Request request;
  request.set_name(name);
  request.set_version(version);
  return request;
}

}  // namespace

Client::Impl::Impl(std::string target_in, const ClientOptions& options_in,
                   std::shared_ptr<grpc::Channel> channel)
    : target(std::move(target_in)),
      options(options_in),
      models(v1::ModelService::NewStub(channel)),
      posteriors(v1::PosteriorService::NewStub(channel)),
      operations(v1::OperationService::NewStub(channel)),
      predictions(v1::PredictionService::NewStub(channel)),
      health(grpc::health::v1::Health::NewStub(channel)) {}

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::~Client() = default;

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(const std::string& target,
                                                        const ClientOptions& options) {
  if (target.empty()) return absl::InvalidArgumentError("target: expected host:port, got nothing");
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  auto channel = MakeChannel(target, options);
  if (!channel.ok()) return channel.status();
  return std::unique_ptr<Client>(
      new Client(std::make_unique<Impl>(target, options, *std::move(channel))));
}

const std::string& Client::target() const { return impl_->target; }

absl::StatusOr<Model> Client::LoadModel(const std::string& name, int64_t version) const {
  auto response =
      impl_->Call(*impl_->models, &v1::ModelService::Stub::LoadModel,
                  ForModel<v1::LoadModelRequest>(name, version), impl_->options.load_timeout);
  if (!response.ok()) return response.status();
  return FromProto(response->model());
}

absl::Status Client::UnloadModel(const std::string& name, int64_t version) const {
  return impl_
      ->Call(*impl_->models, &v1::ModelService::Stub::UnloadModel,
             ForModel<v1::UnloadModelRequest>(name, version), impl_->options.timeout)
      .status();
}

absl::StatusOr<std::vector<Model>> Client::ListModels() const {
  auto response = impl_->Call(*impl_->models, &v1::ModelService::Stub::ListModels,
                              v1::ListModelsRequest(), impl_->options.timeout);
  if (!response.ok()) return response.status();
  std::vector<Model> models;
  for (const v1::Model& model : response->models()) models.push_back(FromProto(model));
  return models;
}

absl::StatusOr<Model> Client::GetModel(const std::string& name, int64_t version) const {
  auto response = impl_->Call(*impl_->models, &v1::ModelService::Stub::GetModel,
                              ForModel<v1::GetModelRequest>(name, version), impl_->options.timeout);
  if (!response.ok()) return response.status();
  return FromProto(response->model());
}

absl::StatusOr<std::vector<Posterior>> Client::ListPosteriors(const std::string& model,
                                                              int64_t version) const {
  v1::ListPosteriorsRequest request;
  request.set_model(model);
  request.set_version(version);
  auto response = impl_->Call(*impl_->posteriors, &v1::PosteriorService::Stub::ListPosteriors,
                              request, impl_->options.timeout);
  if (!response.ok()) return response.status();
  std::vector<Posterior> posteriors;
  for (const v1::Posterior& posterior : response->posteriors()) {
    posteriors.push_back(FromProto(posterior));
  }
  return posteriors;
}

absl::StatusOr<Posterior> Client::GetPosterior(const std::string& model, int64_t version,
                                               const std::string& posterior_id) const {
  v1::GetPosteriorRequest request;
  request.set_model(model);
  request.set_version(version);
  request.set_posterior_id(posterior_id);
  auto response = impl_->Call(*impl_->posteriors, &v1::PosteriorService::Stub::GetPosterior,
                              request, impl_->options.timeout);
  if (!response.ok()) return response.status();
  return FromProto(response->posterior());
}

absl::StatusOr<Posterior> Client::ActivatePosterior(const std::string& model, int64_t version,
                                                    const std::string& posterior_id) const {
  v1::ActivatePosteriorRequest request;
  request.set_model(model);
  request.set_version(version);
  request.set_posterior_id(posterior_id);
  auto response = impl_->Call(*impl_->posteriors, &v1::PosteriorService::Stub::ActivatePosterior,
                              request, impl_->options.timeout);
  if (!response.ok()) return response.status();
  return FromProto(response->posterior());
}

absl::Status Client::DeletePosterior(const std::string& model, int64_t version,
                                     const std::string& posterior_id) const {
  v1::DeletePosteriorRequest request;
  request.set_model(model);
  request.set_version(version);
  request.set_posterior_id(posterior_id);
  bool perhaps_done = false;  // by an attempt whose answer was lost
  bool gone = false;
  const absl::Status status =
      CallWithRetry(impl_->options.retry, {impl_->target, impl_->options.timeout},
                    [&](grpc::ClientContext& context) {
                      AddToken(impl_->options, context);
                      v1::DeletePosteriorResponse response;
                      const grpc::Status answer =
                          impl_->posteriors->DeletePosterior(&context, request, &response);
                      gone = perhaps_done && answer.error_code() == grpc::StatusCode::NOT_FOUND;
                      perhaps_done |= answer.error_code() == grpc::StatusCode::UNAVAILABLE;
                      return answer;
                    });
  return gone ? absl::OkStatus() : status;
}

absl::StatusOr<Prediction> Client::Predict(const PredictRequest& request) const {
  auto message = ToProto(request);
  if (!message.ok()) return message.status();
  auto response = impl_->Call(*impl_->predictions, &v1::PredictionService::Stub::Predict, *message,
                              impl_->options.predict_timeout);
  if (!response.ok()) return response.status();
  return FromProto(*response);
}

absl::StatusOr<Scores> Client::Score(const ScoreRequest& request) const {
  auto message = ToProto(request);
  if (!message.ok()) return message.status();
  auto response = impl_->Call(*impl_->predictions, &v1::PredictionService::Stub::Score, *message,
                              impl_->options.predict_timeout);
  if (!response.ok()) return response.status();
  return FromProto(*response);
}

absl::StatusOr<HealthState> Client::Health(const std::string& service) const {
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  auto response = impl_->Call(*impl_->health, &grpc::health::v1::Health::Stub::Check, request,
                              impl_->options.timeout);
  if (absl::IsNotFound(response.status())) {
    return absl::NotFoundError(
        absl::StrCat("the server at ", impl_->target, " knows no service '", service, "'"));
  }
  if (!response.ok()) return response.status();
  switch (response->status()) {
    case grpc::health::v1::HealthCheckResponse::SERVING:
      return HealthState::kServing;
    case grpc::health::v1::HealthCheckResponse::NOT_SERVING:
      return HealthState::kNotServing;
    default:
      return HealthState::kUnknown;
  }
}

}  // namespace laplace::client
