// A whole server on a free port of this process, with fakes behind it, and clients for it.
//
// Model "net" version 1 is served with posterior "p-1"; "bare" version 1 has none. For tests:
// failures to start fail the test.
#pragma once

#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <grpcpp/grpcpp.h>
#include <laplace/v1/model.grpc.pb.h>
#include <laplace/v1/operation.grpc.pb.h>
#include <laplace/v1/posterior.grpc.pb.h>
#include <laplace/v1/prediction.grpc.pb.h>

#include <memory>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "server/app/config.h"
#include "server/app/server.h"
#include "tests/support/fake_model_host.h"
#include "tests/support/temp_folder.h"

namespace laplaced::test_support {

// First message of type T among the details of an error, or an empty one.
template <typename T>
T DetailOf(const grpc::Status& status) {
  google::rpc::Status details;
  details.ParseFromString(status.error_details());
  T found;
  for (const auto& detail : details.details()) {
    if (detail.UnpackTo(&found)) return found;
  }
  return T();
}

// Field of the google.rpc.BadRequest of an error; empty without one.
inline std::string BadFieldOf(const grpc::Status& status) {
  const auto details = DetailOf<google::rpc::BadRequest>(status);
  return details.field_violations_size() == 0 ? "" : details.field_violations(0).field();
}

class TestServer {
 public:
  explicit TestServer(laplace::v1::ServerConfig changes = {}) {
    laplace::v1::ServerConfig config = DefaultConfig();
    config.set_registry(registry_.path());
    config.set_listen("127.0.0.1:0");
    config.set_http_listen("127.0.0.1:0");
    config.set_load("none");
    config.MergeFrom(changes);
    ServerBackend backend;
    backend.make_model_host = [this](const Repository&, const ModelHostOptions& options) {
      auto made = std::make_unique<FakeModelHost>(options);
      made->Add("net", 1, "p-1");
      made->Add("bare", 1, "");
      host = made.get();
      return made;
    };
    backend.make_fit_service = [this](const Repository&, const DatasetStore&, ModelHost& models,
                                      Operations& operations) {
      auto made = std::make_unique<FakeFitService>(models, operations);
      fits = made.get();
      return made;
    };
    auto started = Server::Start(config, backend);
    if (!started.ok()) {
      ADD_FAILURE() << started.status();
      std::abort();
    }
    server = *std::move(started);
    channel = grpc::CreateChannel(server->address(), grpc::InsecureChannelCredentials());
    models = laplace::v1::ModelService::NewStub(channel);
    posteriors = laplace::v1::PosteriorService::NewStub(channel);
    operations = laplace::v1::OperationService::NewStub(channel);
    predictions = laplace::v1::PredictionService::NewStub(channel);
  }

  const std::string& registry() const { return registry_.path(); }

 private:
  TempFolder registry_;

 public:
  FakeModelHost* host = nullptr;   // owned by the server
  FakeFitService* fits = nullptr;  // owned by the server
  std::unique_ptr<Server> server;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<laplace::v1::ModelService::Stub> models;
  std::unique_ptr<laplace::v1::PosteriorService::Stub> posteriors;
  std::unique_ptr<laplace::v1::OperationService::Stub> operations;
  std::unique_ptr<laplace::v1::PredictionService::Stub> predictions;
};

// A float32 tensor.
inline laplace::v1::Tensor MakeTensor(const std::vector<int64_t>& shape,
                                      const std::vector<float>& values) {
  laplace::v1::Tensor tensor;
  tensor.set_dtype(laplace::v1::DATA_TYPE_FLOAT32);
  tensor.mutable_shape()->Assign(shape.begin(), shape.end());
  tensor.mutable_float32_values()->Assign(values.begin(), values.end());
  return tensor;
}

// A request with two examples that model "net" answers.
inline laplace::v1::PredictRequest GoodPredictRequest() {
  laplace::v1::PredictRequest request;
  request.set_model("net");
  *request.mutable_inputs() = MakeTensor({2, 2}, {1, 2, 3, 4});
  return request;
}

// Calls a unary method of a stub with a deadline far away: Call(stub, &Stub::Method, request,
// &response).
template <typename Stub, typename Request, typename Response>
grpc::Status Call(Stub& stub,
                  grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                  const Request& request, Response* response) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  return (stub.*method)(&context, request, response);
}

}  // namespace laplaced::test_support
