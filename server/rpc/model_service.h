// laplace.v1.ModelService over a ModelHost.
//
// Every call may read files or run LibTorch for seconds, so all of them run on the queue for
// administration. Thread-safe. Host, queue and guard must outlive the gRPC server.
#pragma once

#include <laplace/v1/model.grpc.pb.h>

#include "server/rpc/call_guard.h"
#include "server/serving/compute_queue.h"
#include "server/serving/model_host.h"

namespace laplaced {

class ModelService final : public laplace::v1::ModelService::CallbackService {
 public:
  // `read_queue` is for calls that change nothing, which no slow change may hold up.
  ModelService(ModelHost& host, ComputeQueue& admin_queue, ComputeQueue& read_queue,
               const CallGuard& guard);

  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* call,
                                       const laplace::v1::ListModelsRequest* request,
                                       laplace::v1::ListModelsResponse* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* call,
                                     const laplace::v1::GetModelRequest* request,
                                     laplace::v1::GetModelResponse* response) override;
  grpc::ServerUnaryReactor* LoadModel(grpc::CallbackServerContext* call,
                                      const laplace::v1::LoadModelRequest* request,
                                      laplace::v1::LoadModelResponse* response) override;
  grpc::ServerUnaryReactor* UnloadModel(grpc::CallbackServerContext* call,
                                        const laplace::v1::UnloadModelRequest* request,
                                        laplace::v1::UnloadModelResponse* response) override;

 private:
  ModelHost& host_;
  ComputeQueue& admin_queue_;
  ComputeQueue& read_queue_;
  const CallGuard& guard_;
};

}  // namespace laplaced
