// What a Client holds: one channel, a stub per service, and the way every unary call is made.
// Internal to the library. Immutable after construction; stubs are thread-safe.
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "client/cpp/channel.h"
#include "client/cpp/client.h"
#include "client/cpp/retry.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "laplace/v1/model.grpc.pb.h"
#include "laplace/v1/operation.grpc.pb.h"
#include "laplace/v1/posterior.grpc.pb.h"
#include "laplace/v1/prediction.grpc.pb.h"

namespace laplace::client {

struct Client::Impl {
  Impl(std::string target, const ClientOptions& options, std::shared_ptr<grpc::Channel> channel);

  // Calls a method such as &v1::ModelService::Stub::GetModel.
  template <typename Stub, typename Request, typename Response>
  absl::StatusOr<Response> Call(
      Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
      const Request& request, absl::Duration timeout, bool idempotent = true) const {
    Response response;
    const absl::Status status = CallWithRetry(options.retry, {target, timeout, idempotent},
                                              [&](grpc::ClientContext& context) {
                                                response.Clear();
                                                AddToken(options, context);
                                                return (stub.*method)(&context, request, &response);
                                              });
    if (!status.ok()) return status;
    return response;
  }

  const std::string target;
  const ClientOptions options;
  const std::unique_ptr<v1::ModelService::Stub> models;
  const std::unique_ptr<v1::PosteriorService::Stub> posteriors;
  const std::unique_ptr<v1::OperationService::Stub> operations;
  const std::unique_ptr<v1::PredictionService::Stub> predictions;
  const std::unique_ptr<grpc::health::v1::Health::Stub> health;
};

}  // namespace laplace::client
