// laplace.v1.OperationService over Operations.
//
// Everything it asks is in memory, so calls are answered on gRPC's own threads. WatchOperation
// keeps one write in flight; a slow client skips snapshots but always gets the newest and the final
// one. Thread-safe. Operations and guard must outlive the gRPC server.
#pragma once

#include <laplace/v1/operation.grpc.pb.h>

#include "server/rpc/call_guard.h"
#include "server/serving/operations.h"

namespace laplaced {

class OperationService final : public laplace::v1::OperationService::CallbackService {
 public:
  OperationService(Operations& operations, const CallGuard& guard);

  grpc::ServerUnaryReactor* GetOperation(grpc::CallbackServerContext* call,
                                         const laplace::v1::GetOperationRequest* request,
                                         laplace::v1::GetOperationResponse* response) override;
  grpc::ServerUnaryReactor* ListOperations(grpc::CallbackServerContext* call,
                                           const laplace::v1::ListOperationsRequest* request,
                                           laplace::v1::ListOperationsResponse* response) override;
  grpc::ServerWriteReactor<laplace::v1::WatchOperationResponse>* WatchOperation(
      grpc::CallbackServerContext* call,
      const laplace::v1::WatchOperationRequest* request) override;
  grpc::ServerUnaryReactor* CancelOperation(
      grpc::CallbackServerContext* call, const laplace::v1::CancelOperationRequest* request,
      laplace::v1::CancelOperationResponse* response) override;

 private:
  Operations& operations_;
  const CallGuard& guard_;
};

}  // namespace laplaced
