#include "server/rpc/model_service.h"

#include "absl/strings/str_cat.h"
#include "server/observe/log.h"
#include "server/rpc/record_codec.h"
#include "server/rpc/request_checks.h"
#include "server/rpc/unary_job.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;

constexpr char kList[] = "ModelService.ListModels";
constexpr char kGet[] = "ModelService.GetModel";
constexpr char kLoad[] = "ModelService.LoadModel";
constexpr char kUnload[] = "ModelService.UnloadModel";

}  // namespace

ModelService::ModelService(ModelHost& host, ComputeQueue& admin_queue, ComputeQueue& read_queue,
                           const CallGuard& guard)
    : host_(host), admin_queue_(admin_queue), read_queue_(read_queue), guard_(guard) {}

grpc::ServerUnaryReactor* ModelService::ListModels(grpc::CallbackServerContext* call,
                                                   const v1::ListModelsRequest*,
                                                   v1::ListModelsResponse* response) {
  const absl::Status admitted = guard_.Admit(*call, Role::kPredict).status();
  if (!admitted.ok()) return FinishNow(call, kList, admitted);
  return RunOnQueue(read_queue_, call, kList, [this, response](const ComputeContext&, double) {
    const auto models = host_.List();
    if (!models.ok()) return models.status();
    for (const ModelInfo& info : *models) FillModel(info, response->add_models());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ModelService::GetModel(grpc::CallbackServerContext* call,
                                                 const v1::GetModelRequest* request,
                                                 v1::GetModelResponse* response) {
  const absl::Status admitted = guard_.Admit(*call, Role::kPredict).status();
  if (!admitted.ok()) return FinishNow(call, kGet, admitted);
  const absl::Status valid = CheckModel("name", request->name(), request->version());
  if (!valid.ok()) return FinishNow(call, kGet, valid);
  return RunOnQueue(read_queue_, call, kGet,
                    [this, request, response](const ComputeContext&, double) {
                      const auto info = host_.Get(request->name(), request->version());
                      if (!info.ok()) return info.status();
                      FillModel(*info, response->mutable_model());
                      return absl::OkStatus();
                    });
}

grpc::ServerUnaryReactor* ModelService::LoadModel(grpc::CallbackServerContext* call,
                                                  const v1::LoadModelRequest* request,
                                                  v1::LoadModelResponse* response) {
  const absl::Status admitted = guard_.Admit(*call, Role::kAdmin).status();
  if (!admitted.ok()) return FinishNow(call, kLoad, admitted);
  const absl::Status valid = CheckModel("name", request->name(), request->version());
  if (!valid.ok()) return FinishNow(call, kLoad, valid);
  return RunOnQueue(admin_queue_, call, kLoad,
                    [this, request, response](const ComputeContext&, double) {
                      const auto info = host_.Load(request->name(), request->version());
                      if (!info.ok()) {
                        LogWarning(absl::StrCat("could not load model ", request->name(), ": ",
                                                info.status().message()));
                        return info.status();
                      }
                      LogInfo(absl::StrCat("loaded model ", info->name, "/", info->version));
                      FillModel(*info, response->mutable_model());
                      return absl::OkStatus();
                    });
}

grpc::ServerUnaryReactor* ModelService::UnloadModel(grpc::CallbackServerContext* call,
                                                    const v1::UnloadModelRequest* request,
                                                    v1::UnloadModelResponse*) {
  const absl::Status admitted = guard_.Admit(*call, Role::kAdmin).status();
  if (!admitted.ok()) return FinishNow(call, kUnload, admitted);
  const absl::Status valid = CheckModel("name", request->name(), request->version());
  if (!valid.ok()) return FinishNow(call, kUnload, valid);
  return RunOnQueue(admin_queue_, call, kUnload, [this, request](const ComputeContext&, double) {
    absl::Status status = host_.Unload(request->name(), request->version());
    if (status.ok()) LogInfo(absl::StrCat("unloaded model ", request->name()));
    return status;
  });
}

}  // namespace laplaced
