// Enters the calls of a gRPC server in a ledger, and sends their request ids in the answers'
// initial metadata.
//
// An interceptor makes gRPC take every step of a call through one of its queues, which for small
// requests is a tenth of the server's time. The unary calls that come by the thousand (Predict,
// Score, ModelInfer) are therefore left to their services, which enter them with their reactors
// (unary_job.h); this is for all the others. Thread-safe.
#pragma once

#include <grpcpp/support/server_interceptor.h>

#include <memory>

#include "server/rpc/call_ledger.h"

namespace laplaced {

// For grpc::ServerBuilder; `ledger` must outlive the server.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeCallObserver(
    CallLedger& ledger);

// The calls that are not observed, because their services enter them.
inline constexpr char kPredictPath[] = "/laplace.v1.PredictionService/Predict";
inline constexpr char kScorePath[] = "/laplace.v1.PredictionService/Score";
inline constexpr char kModelInferPath[] = "/inference.GRPCInferenceService/ModelInfer";

}  // namespace laplaced
