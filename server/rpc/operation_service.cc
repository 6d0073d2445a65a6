#include "server/rpc/operation_service.h"

#include "server/rpc/record_codec.h"
#include "server/rpc/request_checks.h"
#include "server/rpc/unary_job.h"
#include "server/rpc/watch_reactor.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;

constexpr char kGet[] = "OperationService.GetOperation";
constexpr char kList[] = "OperationService.ListOperations";
constexpr char kCancel[] = "OperationService.CancelOperation";

absl::Status CheckOperationId(const std::string& id) { return CheckId("id", id, "an operation"); }

}  // namespace

OperationService::OperationService(Operations& operations, const CallGuard& guard)
    : operations_(operations), guard_(guard) {}

grpc::ServerUnaryReactor* OperationService::GetOperation(grpc::CallbackServerContext* call,
                                                         const v1::GetOperationRequest* request,
                                                         v1::GetOperationResponse* response) {
  const absl::Status admitted = guard_.Admit(*call, Role::kPredict).status();
  if (!admitted.ok()) return FinishNow(call, kGet, admitted);
  const absl::Status valid = CheckOperationId(request->id());
  if (!valid.ok()) return FinishNow(call, kGet, valid);
  const auto snapshot = operations_.Get(request->id());
  if (snapshot.ok()) FillOperation(*snapshot, response->mutable_operation());
  return FinishNow(call, kGet, snapshot.status());
}

grpc::ServerUnaryReactor* OperationService::ListOperations(grpc::CallbackServerContext* call,
                                                           const v1::ListOperationsRequest*,
                                                           v1::ListOperationsResponse* response) {
  const absl::Status admitted = guard_.Admit(*call, Role::kPredict).status();
  if (!admitted.ok()) return FinishNow(call, kList, admitted);
  for (const OperationSnapshot& snapshot : operations_.List()) {
    FillOperation(snapshot, response->add_operations());
  }
  return FinishNow(call, kList, absl::OkStatus());
}

grpc::ServerWriteReactor<v1::WatchOperationResponse>* OperationService::WatchOperation(
    grpc::CallbackServerContext* call, const v1::WatchOperationRequest* request) {
  const absl::Status admitted = guard_.Admit(*call, Role::kPredict).status();
  if (!admitted.ok()) return WatchReactor::Refuse(operations_, admitted);
  return WatchReactor::Start(operations_, request->id());
}

grpc::ServerUnaryReactor* OperationService::CancelOperation(
    grpc::CallbackServerContext* call, const v1::CancelOperationRequest* request,
    v1::CancelOperationResponse* response) {
  const absl::Status admitted = guard_.Admit(*call, Role::kAdmin).status();
  if (!admitted.ok()) return FinishNow(call, kCancel, admitted);
  const absl::Status valid = CheckOperationId(request->id());
  if (!valid.ok()) return FinishNow(call, kCancel, valid);
  const auto snapshot = operations_.Cancel(request->id());
  if (snapshot.ok()) FillOperation(*snapshot, response->mutable_operation());
  return FinishNow(call, kCancel, snapshot.status());
}

}  // namespace laplaced
