#include "server/rpc/inference_service.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/model/field_error.h"
#include "server/rpc/call_observer.h"
#include "server/rpc/inference_request.h"
#include "server/rpc/inference_response.h"
#include "server/rpc/request_checks.h"
#include "server/rpc/status_mapping.h"
#include "server/rpc/unary_job.h"

namespace laplaced {
namespace {

constexpr char kModelReady[] = "GRPCInferenceService.ModelReady";
constexpr char kServerMetadata[] = "GRPCInferenceService.ServerMetadata";
constexpr char kModelMetadata[] = "GRPCInferenceService.ModelMetadata";
constexpr char kModelInfer[] = "GRPCInferenceService.ModelInfer";

// The model's checks name the fields of our own API.
absl::Status InOurFields(const absl::Status& status) {
  const std::string field = FieldOf(status);
  if (field.empty()) return status;
  if (field == "ood_scores") return RenameField(status, "parameters.ood_score");
  if (field == "return_covariance") return RenameField(status, "outputs");
  if (field == "inputs.dtype") return RenameField(status, "inputs[0].datatype");
  if (absl::StartsWith(field, "inputs")) {
    return RenameField(status, absl::StrCat("inputs[0]", field.substr(sizeof("inputs") - 1)));
  }
  return RenameField(status, absl::StrCat("parameters.", field));
}

absl::Status Submit(const PredictionParts& parts, const grpc::CallbackServerContext& call,
                    const inference::ModelInferRequest& message, JobReactor* reactor,
                    inference::ModelInferResponse* response) {
  const absl::StatusOr<Caller> caller = parts.guard.Admit(call, Role::kPredict);
  if (!caller.ok()) return caller.status();
  absl::StatusOr<InferenceRequest> read = ReadInferenceRequest(message);
  if (!read.ok()) return read.status();
  const absl::Status room = parts.batcher.CheckRoom(read->priority, caller->client);
  if (!room.ok()) return room;
  const absl::Status inputs = ReadInferenceInputs(message, *read);
  if (!inputs.ok()) return inputs;
  const auto request = std::make_shared<const InferenceRequest>(*std::move(read));
  const auto model = parts.host.PinToAnswer(request->model, request->version);
  if (!model.ok()) return model.status();
  const std::shared_ptr<ComputeContext>& context = reactor->context();
  if (request->timeout) {
    context->deadline =
        std::min(context->deadline, std::chrono::steady_clock::now() + *request->timeout);
  }
  return absl::visit(
      [&](const auto& options) {
        const absl::Status valid = CheckAnswerable(parts, **model, request->inputs, options);
        if (!valid.ok()) return InOurFields(valid);
        return parts.batcher.Submit(
            {*model, request->inputs, context, request->priority, caller->client}, options,
            [&parts, &message, request, model = *model, reactor, response](
                const auto& answer, const BatchTiming& timing) {
              absl::Status status = InOurFields(answer.status());
              if (status.ok()) {
                status = FillInference(*request, model->info(), *answer, timing, response);
                response->set_id(message.id());
                CountAnswer(parts.ood_metrics, model->info(), *answer);
              }
              reactor->End(ToGrpcStatus(status, kModelInfer), *response);
            });
      },
      request->options);
}

}  // namespace

InferenceService::InferenceService(const PredictionParts& parts, std::function<bool()> ready,
                                   std::string version)
    : parts_(parts),
      infer_series_(*parts.ledger.metrics().Find(kModelInferPath)),
      ready_(std::move(ready)),
      version_(std::move(version)) {}

grpc::ServerUnaryReactor* InferenceService::ServerLive(grpc::CallbackServerContext* call,
                                                       const inference::ServerLiveRequest*,
                                                       inference::ServerLiveResponse* response) {
  response->set_live(true);
  return FinishNow(call, "", absl::OkStatus());
}

grpc::ServerUnaryReactor* InferenceService::ServerReady(grpc::CallbackServerContext* call,
                                                        const inference::ServerReadyRequest*,
                                                        inference::ServerReadyResponse* response) {
  response->set_ready(ready_());
  return FinishNow(call, "", absl::OkStatus());
}

grpc::ServerUnaryReactor* InferenceService::ModelReady(grpc::CallbackServerContext* call,
                                                       const inference::ModelReadyRequest* request,
                                                       inference::ModelReadyResponse* response) {
  const absl::StatusOr<int64_t> version = ReadVersion("version", request->version());
  if (!version.ok()) return FinishNow(call, kModelReady, version.status());
  const absl::Status valid = CheckModel("name", request->name(), *version);
  if (!valid.ok()) return FinishNow(call, kModelReady, valid);
  const auto model = parts_.host.PinToAnswer(request->name(), *version);
  response->set_ready(ready_() && model.ok() && !(*model)->posterior_id().empty());
  return FinishNow(call, kModelReady, absl::OkStatus());
}

grpc::ServerUnaryReactor* InferenceService::ServerMetadata(
    grpc::CallbackServerContext* call, const inference::ServerMetadataRequest*,
    inference::ServerMetadataResponse* response) {
  const absl::StatusOr<Caller> caller = parts_.guard.Admit(*call, Role::kPredict);
  if (!caller.ok()) return FinishNow(call, kServerMetadata, caller.status());
  response->set_name("laplaced");
  response->set_version(version_);
  // Triton's name for the parameters priority and timeout.
  response->add_extensions("schedule_policy");
  return FinishNow(call, kServerMetadata, absl::OkStatus());
}

grpc::ServerUnaryReactor* InferenceService::ModelMetadata(
    grpc::CallbackServerContext* call, const inference::ModelMetadataRequest* request,
    inference::ModelMetadataResponse* response) {
  const absl::StatusOr<Caller> caller = parts_.guard.Admit(*call, Role::kPredict);
  if (!caller.ok()) return FinishNow(call, kModelMetadata, caller.status());
  const absl::StatusOr<int64_t> version = ReadVersion("version", request->version());
  if (!version.ok()) return FinishNow(call, kModelMetadata, version.status());
  const absl::Status valid = CheckModel("name", request->name(), *version);
  if (!valid.ok()) return FinishNow(call, kModelMetadata, valid);
  const auto model = parts_.host.PinToAnswer(request->name(), *version);
  if (!model.ok()) return FinishNow(call, kModelMetadata, model.status());
  FillModelMetadata((*model)->info(), response);
  for (const int64_t loaded : parts_.host.LoadedVersions(request->name())) {
    response->add_versions(absl::StrCat(loaded));
  }
  return FinishNow(call, kModelMetadata, absl::OkStatus());
}

grpc::ServerUnaryReactor* InferenceService::ModelInfer(grpc::CallbackServerContext* call,
                                                       const inference::ModelInferRequest* request,
                                                       inference::ModelInferResponse* response) {
  auto* reactor = new JobReactor(parts_.ledger, infer_series_, call, *request);
  const absl::Status submitted = Submit(parts_, *call, *request, reactor, response);
  if (!submitted.ok()) reactor->End(ToGrpcStatus(submitted, kModelInfer), *response);
  return reactor;
}

}  // namespace laplaced
