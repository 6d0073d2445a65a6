// laplace.v1.PredictionService: checks a request on gRPC's thread and computes it on the compute
// queue.
//
// The inputs are used in place, so a request's memory is not copied. Thread-safe. Host and queue
// must outlive the gRPC server.
#pragma once

#include <laplace/v1/prediction.grpc.pb.h>

#include "server/serving/compute_queue.h"
#include "server/serving/model_host.h"

namespace laplaced {

class PredictionService final : public laplace::v1::PredictionService::CallbackService {
 public:
  // Answers that would be larger than `max_response_bytes` are refused before they are computed.
  PredictionService(const ModelHost& host, ComputeQueue& queue, int64_t max_response_bytes);

  grpc::ServerUnaryReactor* Predict(grpc::CallbackServerContext* call,
                                    const laplace::v1::PredictRequest* request,
                                    laplace::v1::PredictResponse* response) override;
  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* call,
                                  const laplace::v1::ScoreRequest* request,
                                  laplace::v1::ScoreResponse* response) override;

 private:
  const ModelHost& host_;
  ComputeQueue& queue_;
  const int64_t max_response_bytes_;
};

}  // namespace laplaced
