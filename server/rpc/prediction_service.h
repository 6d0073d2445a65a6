// laplace.v1.PredictionService: checks a request on gRPC's thread and computes it on the compute
// queue; streams are PredictStreamReactor's.
//
// The inputs are used in place, so a request's memory is not copied. Thread-safe.
#pragma once

#include <laplace/v1/prediction.grpc.pb.h>

#include "server/rpc/prediction_work.h"

namespace laplaced {

class PredictionService final : public laplace::v1::PredictionService::CallbackService {
 public:
  explicit PredictionService(const PredictionParts& parts);

  grpc::ServerUnaryReactor* Predict(grpc::CallbackServerContext* call,
                                    const laplace::v1::PredictRequest* request,
                                    laplace::v1::PredictResponse* response) override;
  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* call,
                                  const laplace::v1::ScoreRequest* request,
                                  laplace::v1::ScoreResponse* response) override;
  grpc::ServerBidiReactor<laplace::v1::PredictStreamRequest, laplace::v1::PredictStreamResponse>*
  PredictStream(grpc::CallbackServerContext* call) override;

 private:
  const PredictionParts parts_;
  const CallMetrics::Series& predict_series_;
  const CallMetrics::Series& score_series_;
};

}  // namespace laplaced
