// inference.GRPCInferenceService: the Open Inference Protocol over the same models, queue and
// posteriors as laplace.v1.PredictionService.
//
// Live, ready and ModelReady ask for no token, because probes have none. Thread-safe.
#pragma once

#include <inference/grpc_predict_v2.grpc.pb.h>

#include <functional>

#include "server/rpc/prediction_work.h"

namespace laplaced {

class InferenceService final : public inference::GRPCInferenceService::CallbackService {
 public:
  // `ready` tells whether predictions can be asked for; `version` is the server's.
  InferenceService(const PredictionParts& parts, std::function<bool()> ready, std::string version);

  grpc::ServerUnaryReactor* ServerLive(grpc::CallbackServerContext* call,
                                       const inference::ServerLiveRequest* request,
                                       inference::ServerLiveResponse* response) override;
  grpc::ServerUnaryReactor* ServerReady(grpc::CallbackServerContext* call,
                                        const inference::ServerReadyRequest* request,
                                        inference::ServerReadyResponse* response) override;
  grpc::ServerUnaryReactor* ModelReady(grpc::CallbackServerContext* call,
                                       const inference::ModelReadyRequest* request,
                                       inference::ModelReadyResponse* response) override;
  grpc::ServerUnaryReactor* ServerMetadata(grpc::CallbackServerContext* call,
                                           const inference::ServerMetadataRequest* request,
                                           inference::ServerMetadataResponse* response) override;
  grpc::ServerUnaryReactor* ModelMetadata(grpc::CallbackServerContext* call,
                                          const inference::ModelMetadataRequest* request,
                                          inference::ModelMetadataResponse* response) override;
  grpc::ServerUnaryReactor* ModelInfer(grpc::CallbackServerContext* call,
                                       const inference::ModelInferRequest* request,
                                       inference::ModelInferResponse* response) override;

 private:
  const PredictionParts parts_;
  const CallMetrics::Series& infer_series_;
  const std::function<bool()> ready_;
  const std::string version_;
};

}  // namespace laplaced
