#include "server/rpc/posterior_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/observe/log.h"
#include "server/rpc/record_codec.h"
#include "server/rpc/request_checks.h"
#include "server/rpc/request_codec.h"
#include "server/rpc/status_mapping.h"
#include "server/rpc/unary_job.h"
#include "server/rpc/upload_reactor.h"
#include "server/serving/retry_after.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;

constexpr char kFit[] = "PosteriorService.FitPosterior";
constexpr char kUpdate[] = "PosteriorService.UpdatePosterior";
constexpr char kCalibrate[] = "PosteriorService.CalibrateOod";
constexpr char kNewton[] = "PosteriorService.NewtonStep";
constexpr char kList[] = "PosteriorService.ListPosteriors";
constexpr char kGet[] = "PosteriorService.GetPosterior";
constexpr char kActivate[] = "PosteriorService.ActivatePosterior";
constexpr char kDelete[] = "PosteriorService.DeletePosterior";
constexpr char kUpload[] = "PosteriorService.UploadDataset";
constexpr char kGetDataset[] = "PosteriorService.GetDataset";

absl::Status CheckPosteriorId(const std::string& id) {
  return CheckId("posterior_id", id, "a posterior");
}

absl::Status ReadOnly() {
  return absl::FailedPreconditionError(
      "this server is read-only (it was started with --read-only) and changes nothing in its "
      "registry; send fits, updates, calibrations, Newton steps, uploads, activations and "
      "deletions to the "
      "server that writes to it");
}

// Answers an upload without reading it.
class RefusedUpload final : public grpc::ServerReadReactor<v1::UploadDatasetRequest> {
 public:
  explicit RefusedUpload(const absl::Status& status) { Finish(ToGrpcStatus(status, kUpload)); }
  void OnDone() override { delete this; }
};

}  // namespace

PosteriorService::PosteriorService(const Parts& parts) : parts_(parts) {}

grpc::ServerUnaryReactor* PosteriorService::FitPosterior(grpc::CallbackServerContext* call,
                                                         const v1::FitPosteriorRequest* request,
                                                         v1::FitPosteriorResponse* response) {
  const absl::Status admitted = parts_.guard.Admit(*call, Role::kAdmin).status();
  if (!admitted.ok()) return FinishNow(call, kFit, admitted);
  if (parts_.read_only) return FinishNow(call, kFit, ReadOnly());
  absl::StatusOr<FitRequest> fit = ToFitRequest(*request);
  if (!fit.ok()) return FinishNow(call, kFit, fit.status());
  return StartOperation(
      call, kFit,
      [this, fit = *std::move(fit)](const ComputeContext& caller) {
        return parts_.fits.Start(fit, caller);
      },
      response->mutable_operation());
}

grpc::ServerUnaryReactor* PosteriorService::UpdatePosterior(
    grpc::CallbackServerContext* call, const v1::UpdatePosteriorRequest* request,
    v1::UpdatePosteriorResponse* response) {
  const absl::Status admitted = parts_.guard.Admit(*call, Role::kAdmin).status();
  if (!admitted.ok()) return FinishNow(call, kUpdate, admitted);
  if (parts_.read_only) return FinishNow(call, kUpdate, ReadOnly());
  absl::StatusOr<UpdateRequest> update = ToUpdateRequest(*request);
  if (!update.ok()) return FinishNow(call, kUpdate, update.status());
  return StartOperation(
      call, kUpdate,
      [this, update = *std::move(update)](const ComputeContext& caller) {
        return parts_.fits.StartUpdate(update, caller);
      },
      response->mutable_operation());
}

grpc::ServerUnaryReactor* PosteriorService::CalibrateOod(grpc::CallbackServerContext* call,
                                                         const v1::CalibrateOodRequest* request,
                                                         v1::CalibrateOodResponse* response) {
  const absl::Status admitted = parts_.guard.Admit(*call, Role::kAdmin).status();
  if (!admitted.ok()) return FinishNow(call, kCalibrate, admitted);
  if (parts_.read_only) return FinishNow(call, kCalibrate, ReadOnly());
  absl::StatusOr<CalibrateRequest> calibrate = ToCalibrateRequest(*request);
  if (!calibrate.ok()) return FinishNow(call, kCalibrate, calibrate.status());
  return StartOperation(
      call, kCalibrate,
      [this, calibrate = *std::move(calibrate)](const ComputeContext& caller) {
        return parts_.fits.StartCalibrate(calibrate, caller);
      },
      response->mutable_operation());
}

grpc::ServerUnaryReactor* PosteriorService::NewtonStep(grpc::CallbackServerContext* call,
                                                       const v1::NewtonStepRequest* request,
                                                       v1::NewtonStepResponse* response) {
  const absl::Status admitted = parts_.guard.Admit(*call, Role::kAdmin).status();
  if (!admitted.ok()) return FinishNow(call, kNewton, admitted);
  if (parts_.read_only) return FinishNow(call, kNewton, ReadOnly());
  absl::StatusOr<NewtonRequest> newton = ToNewtonRequest(*request);
  if (!newton.ok()) return FinishNow(call, kNewton, newton.status());
  return StartOperation(
      call, kNewton,
      [this, newton = *std::move(newton)](const ComputeContext& caller) {
        return parts_.fits.StartNewton(newton, caller);
      },
      response->mutable_operation());
}

grpc::ServerUnaryReactor* PosteriorService::ListPosteriors(grpc::CallbackServerContext* call,
                                                           const v1::ListPosteriorsRequest* request,
                                                           v1::ListPosteriorsResponse* response) {
  const absl::Status admitted = parts_.guard.Admit(*call, Role::kPredict).status();
  if (!admitted.ok()) return FinishNow(call, kList, admitted);
  const absl::Status valid = CheckModel("model", request->model(), request->version());
  if (!valid.ok()) return FinishNow(call, kList, valid);
  return RunOnQueue(
      parts_.read_queue, call, kList, [this, request, response](const ComputeContext&, double) {
        const auto records = parts_.fits.ListPosteriors(request->model(), request->version());
        if (!records.ok()) return records.status();
        const std::string active = ActiveId(request->model(), request->version());
        for (const PosteriorRecord& record : *records) {
          FillPosterior(record, active, response->add_posteriors());
        }
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* PosteriorService::GetPosterior(grpc::CallbackServerContext* call,
                                                         const v1::GetPosteriorRequest* request,
                                                         v1::GetPosteriorResponse* response) {
  const absl::Status admitted = parts_.guard.Admit(*call, Role::kPredict).status();
  if (!admitted.ok()) return FinishNow(call, kGet, admitted);
  absl::Status valid = CheckModel("model", request->model(), request->version());
  if (valid.ok() && !request->posterior_id().empty()) {
    valid = CheckPosteriorId(request->posterior_id());
  }
  if (!valid.ok()) return FinishNow(call, kGet, valid);
  return RunOnQueue(
      parts_.read_queue, call, kGet, [this, request, response](const ComputeContext&, double) {
        const auto record =
            parts_.fits.GetPosterior(request->model(), request->version(), request->posterior_id());
        if (!record.ok()) return WithField(record.status(), "posterior_id");
        FillPosterior(*record, ActiveId(request->model(), request->version()),
                      response->mutable_posterior());
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* PosteriorService::ActivatePosterior(
    grpc::CallbackServerContext* call, const v1::ActivatePosteriorRequest* request,
    v1::ActivatePosteriorResponse* response) {
  const absl::Status admitted = parts_.guard.Admit(*call, Role::kAdmin).status();
  if (!admitted.ok()) return FinishNow(call, kActivate, admitted);
  if (parts_.read_only) return FinishNow(call, kActivate, ReadOnly());
  absl::Status valid = CheckModel("model", request->model(), request->version());
  if (valid.ok()) valid = CheckPosteriorId(request->posterior_id());
  if (!valid.ok()) return FinishNow(call, kActivate, valid);
  return RunOnQueue(
      parts_.admin_queue, call, kActivate,
      [this, request, response](const ComputeContext&, double) {
        const std::string& id = request->posterior_id();
        // Read first, so that nothing can fail once it is active.
        const auto record = parts_.fits.GetPosterior(request->model(), request->version(), id);
        const absl::Status activated =
            record.ok()
                ? parts_.host.ActivatePosterior(request->model(), request->version(), id, "")
                : record.status();
        if (!activated.ok()) return WithField(activated, "posterior_id");
        LogInfo(absl::StrCat("activated posterior ", id, " of model ", request->model()));
        FillPosterior(*record, id, response->mutable_posterior());
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* PosteriorService::DeletePosterior(
    grpc::CallbackServerContext* call, const v1::DeletePosteriorRequest* request,
    v1::DeletePosteriorResponse*) {
  const absl::Status admitted = parts_.guard.Admit(*call, Role::kAdmin).status();
  if (!admitted.ok()) return FinishNow(call, kDelete, admitted);
  if (parts_.read_only) return FinishNow(call, kDelete, ReadOnly());
  absl::Status valid = CheckModel("model", request->model(), request->version());
  if (valid.ok()) valid = CheckPosteriorId(request->posterior_id());
  if (!valid.ok()) return FinishNow(call, kDelete, valid);
  return RunOnQueue(
      parts_.admin_queue, call, kDelete, [this, request](const ComputeContext&, double) {
        const std::string& id = request->posterior_id();
        const absl::Status deleted =
            parts_.host.DeletePosterior(request->model(), request->version(), id);
        if (!deleted.ok()) return WithField(deleted, "posterior_id");
        LogInfo(absl::StrCat("deleted posterior ", id, " of model ", request->model()));
        return absl::OkStatus();
      });
}

grpc::ServerReadReactor<v1::UploadDatasetRequest>* PosteriorService::UploadDataset(
    grpc::CallbackServerContext* call, v1::UploadDatasetResponse* response) {
  const absl::Status admitted = parts_.guard.Admit(*call, Role::kAdmin).status();
  if (!admitted.ok()) return new RefusedUpload(admitted);
  if (parts_.read_only) return new RefusedUpload(ReadOnly());
  return UploadReactor::Start(parts_.datasets, parts_.upload_queue, call, response);
}

grpc::ServerUnaryReactor* PosteriorService::GetDataset(grpc::CallbackServerContext* call,
                                                       const v1::GetDatasetRequest* request,
                                                       v1::GetDatasetResponse* response) {
  const absl::Status admitted = parts_.guard.Admit(*call, Role::kPredict).status();
  if (!admitted.ok()) return FinishNow(call, kGetDataset, admitted);
  const absl::Status valid = CheckId("id", request->id(), "an uploaded data set");
  if (!valid.ok()) return FinishNow(call, kGetDataset, valid);
  return RunOnQueue(parts_.read_queue, call, kGetDataset,
                    [this, request, response](const ComputeContext&, double) {
                      const auto files = parts_.datasets.Find(request->id());
                      if (!files.ok()) return RenameField(files.status(), "id");
                      FillDataset(files->info, response->mutable_dataset());
                      return absl::OkStatus();
                    });
}

grpc::ServerUnaryReactor* PosteriorService::StartOperation(
    grpc::CallbackServerContext* call, const char* method,
    std::function<absl::StatusOr<OperationSnapshot>(const ComputeContext&)> start,
    v1::Operation* operation) {
  return RunOnQueue(
      parts_.admin_queue, call, method,
      [this, start = std::move(start), operation](const ComputeContext& caller,
                                                  double) -> absl::Status {
        const auto started = start(caller);
        // Not of a full disk, which no fit's end makes room on.
        if (absl::IsResourceExhausted(started.status()) &&
            absl::IsResourceExhausted(parts_.operations.CheckRoom())) {
          return WithRetryAfter(started.status(), SecondsUntilFitEnds());
        }
        if (!started.ok()) return started.status();
        LogInfo(absl::StrCat("started ", started->record.id, ": ", started->record.description));
        FillOperation(*started, operation);
        return absl::OkStatus();
      });
}

std::string PosteriorService::ActiveId(const std::string& model, int64_t version) const {
  const auto info = parts_.host.Get(model, version);
  return info.ok() ? info->active_posterior_id : std::string();
}

double PosteriorService::SecondsUntilFitEnds() const {
  constexpr double kUnknownSeconds = 30;
  constexpr double kShortestSeconds = 1;
  double soonest = -1;
  for (const OperationSnapshot& operation : parts_.operations.List()) {
    if (operation.record.state != OperationState::kRunning || operation.seconds_left < 0) continue;
    soonest = soonest < 0 ? operation.seconds_left : std::min(soonest, operation.seconds_left);
  }
  return soonest < 0 ? kUnknownSeconds : std::max(soonest, kShortestSeconds);
}

}  // namespace laplaced
