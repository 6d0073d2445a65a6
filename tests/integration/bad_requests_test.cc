// A table of bad requests to every service of the real server: the code and part of the message are
// known for each, none is UNKNOWN or INTERNAL, and after all of them the server predicts what it
// predicted before, to the bit. tests/rpc/bad_requests_test.cc and its neighbours have some two
// hundred and fifty more, which can be told to be bad without a model.
#include <gmock/gmock.h>
#include <google/protobuf/stubs/logging.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <inference/grpc_predict_v2.grpc.pb.h>
#include <laplace/v1/model.grpc.pb.h>
#include <laplace/v1/operation.grpc.pb.h>
#include <laplace/v1/posterior.grpc.pb.h>
#include <laplace/v1/prediction.grpc.pb.h>

#include <chrono>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "tests/integration/world.h"

namespace laplaced::integration {
namespace {

namespace v1 = laplace::v1;
using grpc::ClientContext;
using grpc::Status;
using grpc::StatusCode;
using ::testing::HasSubstr;

constexpr StatusCode kInvalid = StatusCode::INVALID_ARGUMENT;
constexpr StatusCode kNotFound = StatusCode::NOT_FOUND;

constexpr char kNoDataset[] =
    "sha256-0000000000000000000000000000000000000000000000000000000000000000";

// The server's methods, and what a request may name.
struct Site {
  std::shared_ptr<grpc::Channel> channel;
  std::string train_dataset;
  std::string active;  // id of the active posterior
};

struct BadRequest {
  std::string name;
  std::function<Status(const Site&)> send;
  StatusCode code;
  std::string fragment;  // of the message
};

void SetDeadline(ClientContext& context) {
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
}

// Sends a request that `fill` has filled to a unary method.
template <typename Service, typename Request, typename Response>
std::function<Status(const Site&)> Unary(Status (Service::Stub::*method)(ClientContext*,
                                                                         const Request&, Response*),
                                         std::function<void(const Site&, Request&)> fill) {
  return [=](const Site& site) {
    const auto stub = Service::NewStub(site.channel);
    Request request;
    fill(site, request);
    Response response;
    ClientContext context;
    SetDeadline(context);
    return (stub.get()->*method)(&context, request, &response);
  };
}

// Bytes that need not be a message, to any method.
Status SendBytes(const Site& site, const std::string& method, const std::string& bytes) {
  grpc::GenericStub stub(site.channel);
  ClientContext context;
  SetDeadline(context);
  const grpc::Slice slice(bytes);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  Status status;
  grpc::CompletionQueue queue;
  const auto call = stub.PrepareUnaryCall(&context, method, request, &queue);
  call->StartCall();
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  EXPECT_TRUE(queue.Next(&tag, &ok));
  return status;
}

v1::Tensor Floats(const std::vector<int64_t>& shape, float value = 0.5f) {
  v1::Tensor tensor;
  tensor.set_dtype(v1::DATA_TYPE_FLOAT32);
  int64_t count = 1;
  for (const int64_t size : shape) {
    tensor.add_shape(size);
    count *= size;
  }
  for (int64_t i = 0; i < count; ++i) tensor.add_float32_values(value);
  return tensor;
}

v1::PredictRequest GoodPrediction() {
  v1::PredictRequest request;
  request.set_model("mlp");
  *request.mutable_inputs() = Floats({2, 4});
  return request;
}

std::function<Status(const Site&)> Predict(std::function<void(v1::PredictRequest&)> change) {
  return Unary<v1::PredictionService, v1::PredictRequest, v1::PredictResponse>(
      &v1::PredictionService::Stub::Predict, [=](const Site&, v1::PredictRequest& request) {
        request = GoodPrediction();
        change(request);
      });
}

std::function<Status(const Site&)> Score(std::function<void(v1::ScoreRequest&)> change) {
  return Unary<v1::PredictionService, v1::ScoreRequest, v1::ScoreResponse>(
      &v1::PredictionService::Stub::Score, [=](const Site&, v1::ScoreRequest& request) {
        request.set_model("mlp");
        *request.mutable_inputs() = Floats({2, 4});
        change(request);
      });
}

inference::ModelInferRequest GoodInference() {
  inference::ModelInferRequest request;
  request.set_model_name("mlp");
  auto* input = request.add_inputs();
  input->set_name("x");
  input->set_datatype("FP32");
  input->add_shape(1);
  input->add_shape(4);
  for (int i = 0; i < 4; ++i) input->mutable_contents()->add_fp32_contents(0.5f);
  return request;
}

using Infer = inference::ModelInferRequest;

std::function<Status(const Site&)> Inference(std::function<void(Infer&)> change) {
  using Service = inference::GRPCInferenceService;
  return Unary<Service, Infer, inference::ModelInferResponse>(&Service::Stub::ModelInfer,
                                                              [=](const Site&, Infer& request) {
                                                                request = GoodInference();
                                                                change(request);
                                                              });
}

std::function<Status(const Site&)> Fit(
    std::function<void(const Site&, v1::FitPosteriorRequest&)> change) {
  return Unary<v1::PosteriorService, v1::FitPosteriorRequest, v1::FitPosteriorResponse>(
      &v1::PosteriorService::Stub::FitPosterior,
      [=](const Site& site, v1::FitPosteriorRequest& request) {
        request.set_model("mlp");
        request.set_train_dataset_id(site.train_dataset);
        request.mutable_options()->set_rank(4);
        request.mutable_options()->set_direction_batch_size(100);
        request.mutable_options()->set_curvature_batch_size(100);
        change(site, request);
      });
}

std::function<Status(const Site&)> FitWith(std::function<void(v1::FitOptions&)> change) {
  return Fit(
      [=](const Site&, v1::FitPosteriorRequest& request) { change(*request.mutable_options()); });
}

std::function<Status(const Site&)> Stream(std::vector<v1::PredictStreamRequest> messages) {
  return [messages = std::move(messages)](const Site& site) {
    const auto stub = v1::PredictionService::NewStub(site.channel);
    ClientContext context;
    SetDeadline(context);
    const auto stream = stub->PredictStream(&context);
    for (const auto& message : messages) stream->Write(message);
    stream->WritesDone();
    v1::PredictStreamResponse response;
    while (stream->Read(&response)) {
    }
    return stream->Finish();
  };
}

std::function<Status(const Site&)> Upload(std::vector<v1::UploadDatasetRequest> messages) {
  return [messages = std::move(messages)](const Site& site) {
    const auto stub = v1::PosteriorService::NewStub(site.channel);
    ClientContext context;
    SetDeadline(context);
    v1::UploadDatasetResponse response;
    const auto stream = stub->UploadDataset(&context, &response);
    for (const auto& message : messages) stream->Write(message);
    stream->WritesDone();
    return stream->Finish();
  };
}

// Every unary method, by its path.
const std::vector<std::string>& Methods() {
  static const std::vector<std::string> methods = {
      "/laplace.v1.PredictionService/Predict",
      "/laplace.v1.PredictionService/Score",
      "/laplace.v1.ModelService/ListModels",
      "/laplace.v1.ModelService/GetModel",
      "/laplace.v1.ModelService/LoadModel",
      "/laplace.v1.ModelService/UnloadModel",
      "/laplace.v1.PosteriorService/FitPosterior",
      "/laplace.v1.PosteriorService/ListPosteriors",
      "/laplace.v1.PosteriorService/GetPosterior",
      "/laplace.v1.PosteriorService/ActivatePosterior",
      "/laplace.v1.PosteriorService/DeletePosterior",
      "/laplace.v1.PosteriorService/UpdatePosterior",
      "/laplace.v1.PosteriorService/CalibrateOod",
      "/laplace.v1.PosteriorService/GetDataset",
      "/laplace.v1.OperationService/GetOperation",
      "/laplace.v1.OperationService/ListOperations",
      "/laplace.v1.OperationService/CancelOperation",
      "/inference.GRPCInferenceService/ModelReady",
      "/inference.GRPCInferenceService/ModelMetadata",
      "/inference.GRPCInferenceService/ModelInfer",
  };
  return methods;
}

// gRPC itself answers what is no message, before any code of ours.
std::vector<BadRequest> BadBytes() {
  std::vector<BadRequest> bad;
  for (const std::string& method : Methods()) {
    // A text of which less is there than announced.
    bad.push_back({"no message to " + method,
                   [=](const Site& site) { return SendBytes(site, method, "\x0a\xff\x01x"); },
                   StatusCode::UNIMPLEMENTED, ""});
  }
  for (const char* method :
       {"/laplace.v1.PredictionService/Guess", "/no.such.Service/Method", "/"}) {
    bad.push_back({std::string("unknown method ") + method,
                   [=](const Site& site) { return SendBytes(site, method, ""); },
                   StatusCode::UNIMPLEMENTED, ""});
  }
  bad.push_back({"message above the limit",
                 [](const Site& site) {
                   return SendBytes(site, Methods()[0], std::string((1 << 20) + 1, '\0'));
                 },
                 StatusCode::RESOURCE_EXHAUSTED, "larger than max"});
  return bad;
}

// Names that would lead out of their folder, or to a hidden file, in every field that names a
// model, and ids of data sets.
std::vector<BadRequest> BadNames() {
  using M = v1::ModelService;
  using P = v1::PosteriorService;
  using I = inference::GRPCInferenceService;
  std::vector<BadRequest> bad;
  for (const std::string& name :
       {std::string("../mlp"), std::string("mlp/1"), std::string("/etc/passwd"), std::string(".."),
        std::string(".tmp-1"), std::string("mlp\0x", 5), std::string("mlp\n"), std::string("m p"),
        std::string("\u540d"), std::string(129, 'm')}) {
    const auto add = [&](const std::string& method, std::function<Status(const Site&)> send) {
      bad.push_back({method + " of " + name.substr(0, 20), std::move(send), kInvalid, "expected"});
    };
    add("GetModel", Unary<M, v1::GetModelRequest, v1::GetModelResponse>(
                        &M::Stub::GetModel, [=](auto&, auto& r) { r.set_name(name); }));
    add("LoadModel", Unary<M, v1::LoadModelRequest, v1::LoadModelResponse>(
                         &M::Stub::LoadModel, [=](auto&, auto& r) { r.set_name(name); }));
    add("UnloadModel", Unary<M, v1::UnloadModelRequest, v1::UnloadModelResponse>(
                           &M::Stub::UnloadModel, [=](auto&, auto& r) { r.set_name(name); }));
    add("Predict", Predict([=](auto& r) { r.set_model(name); }));
    add("Fit", Fit([=](auto&, auto& r) { r.set_model(name); }));
    add("ListPosteriors",
        Unary<P, v1::ListPosteriorsRequest, v1::ListPosteriorsResponse>(
            &P::Stub::ListPosteriors, [=](auto&, auto& r) { r.set_model(name); }));
    add("GetDataset", Unary<P, v1::GetDatasetRequest, v1::GetDatasetResponse>(
                          &P::Stub::GetDataset, [=](auto&, auto& r) { r.set_id(name); }));
    add("Fit on data", Fit([=](auto&, auto& r) { r.set_train_dataset_id(name); }));
    add("ActivatePosterior", Unary<P, v1::ActivatePosteriorRequest, v1::ActivatePosteriorResponse>(
                                 &P::Stub::ActivatePosterior, [=](auto&, auto& r) {
                                   r.set_model("mlp");
                                   r.set_posterior_id(name);
                                 }));
    add("DeletePosterior", Unary<P, v1::DeletePosteriorRequest, v1::DeletePosteriorResponse>(
                               &P::Stub::DeletePosterior, [=](auto&, auto& r) {
                                 r.set_model("mlp");
                                 r.set_posterior_id(name);
                               }));
    add("ModelMetadata",
        Unary<I, inference::ModelMetadataRequest, inference::ModelMetadataResponse>(
            &I::Stub::ModelMetadata, [=](auto&, auto& r) { r.set_name(name); }));
    add("ModelInfer", Inference([=](auto& r) { r.set_model_name(name); }));
  }
  return bad;
}

std::vector<BadRequest> BadPredictions() {
  using R = v1::PredictRequest;
  return {
      {"another number of features", Predict([](R& r) {
         *r.mutable_inputs() = Floats({2, 5});
       }),
       kInvalid, "expected [B, 4], got [2, 5]"},
      {"more dimensions", Predict([](R& r) {
         *r.mutable_inputs() = Floats({1, 4, 1});
       }),
       kInvalid, "expected [B, 4], got [1, 4, 1]"},
      {"more rows than a request may have", Predict([](R& r) {
         *r.mutable_inputs() = Floats({65, 4});
       }),
       kInvalid, "at most 64"},
      {"values without end", Predict([](R& r) {
         *r.mutable_inputs() = Floats({1, 4}, INFINITY);
       }),
       kInvalid, "row 0 holds a value that is not finite"},
      {"a precision of next to nothing", Predict([](R& r) { r.set_prior_precision(1e-300); }),
       kInvalid, "expected a number from"},
      {"a precision beyond single precision", Predict([](R& r) { r.set_prior_precision(1e300); }),
       kInvalid, "expected a number from"},
      {"a temperature of next to nothing", Predict([](R& r) { r.set_temperature(5e-324); }),
       kInvalid, "expected a number from"},
      {"top classes with Monte Carlo", Predict([](R& r) {
         r.set_variance_mode(v1::VARIANCE_MODE_TOP_CLASSES);
         r.set_link_approx(v1::LINK_APPROX_MC);
       }),
       kInvalid, "expected PROBIT in the mode TOP_CLASSES"},
      {"joint covariance of samples", Predict([](R& r) {
         r.set_variance_mode(v1::VARIANCE_MODE_SAMPLED);
         r.set_return_joint_covariance(true);
       }),
       kInvalid, "expected the mode EXACT or LAST_LAYER, got SAMPLED"},
      {"a score of regression", Predict([](R& r) { r.add_ood_scores("information_gain"); }),
       kInvalid, "ood_scores[0]"},
      {"a score twice", Predict([](R& r) {
         r.add_ood_scores("energy");
         r.add_ood_scores("energy");
       }),
       kInvalid, "ood_scores[1]"},
      {"an empty score", Score([](auto& r) { r.add_ood_scores(""); }), kInvalid, "ood_scores[0]"},
      {"pixels", Score([](auto& r) {
         r.mutable_inputs()->set_dtype(v1::DATA_TYPE_UINT8);
         r.mutable_inputs()->clear_float32_values();
         r.mutable_inputs()->set_raw_values("12345678");
       }),
       kInvalid, "got uint8"},
      {"a version that is not there", Score([](auto& r) { r.set_version(2); }), kNotFound, "mlp/2"},
      {"a model that is not there", Score([](auto& r) { r.set_model("nope"); }), kNotFound,
       "nope is not loaded"},
  };
}

std::vector<BadRequest> BadInferences() {
  const auto with_parameter = [](const std::string& name, auto set) {
    return Inference([=](Infer& r) { set((*r.mutable_parameters())[name]); });
  };
  return {
      {"rows of another width", Inference([](Infer& r) {
         r.mutable_inputs(0)->set_shape(1, 2);
         r.mutable_inputs(0)->set_shape(0, 2);
       }),
       kInvalid, "expected [B, 4], got [2, 2]"},
      {"pixels", Inference([](Infer& r) {
         auto& input = *r.mutable_inputs(0);
         input.set_datatype("UINT8");
         input.clear_contents();
         for (int i = 0; i < 4; ++i) input.mutable_contents()->add_uint_contents(1);
       }),
       kInvalid, "uint8"},
      {"texts", Inference([](Infer& r) { r.mutable_inputs(0)->set_datatype("BYTES"); }), kInvalid,
       "expected FP32, FP64 or UINT8, got 'BYTES'"},
      {"not a number", Inference([](Infer& r) {
         r.mutable_inputs(0)->mutable_contents()->set_fp32_contents(2, NAN);
       }),
       kInvalid, "not finite"},
      {"an output that is no output",
       Inference([](Infer& r) { r.add_outputs()->set_name("probs"); }), kInvalid, "got 'probs'"},
      {"a version that is no number", Inference([](Infer& r) { r.set_model_version("1.0"); }),
       kInvalid, "got '1.0'"},
      {"a version that is not there", Inference([](Infer& r) { r.set_model_version("3"); }),
       kNotFound, "mlp/3"},
      {"a score that is none",
       with_parameter("ood_score", [](auto& p) { p.set_string_param("entropie"); }), kInvalid,
       "entropie"},
      {"a parameter that is none",
       with_parameter("temprature", [](auto& p) { p.set_double_param(1); }), kInvalid,
       "parameters.temprature"},
      {"a precision below all",
       with_parameter("prior_precision", [](auto& p) { p.set_double_param(-1); }), kInvalid,
       "parameters.prior_precision"},
      {"shared memory", Inference([](Infer& r) {
         (*r.mutable_inputs(0)->mutable_parameters())["shared_memory_region"].set_string_param("x");
       }),
       kInvalid, "shared_memory_region"},
      {"no input at all", Inference([](Infer& r) { r.clear_inputs(); }), kInvalid,
       "expected one input, got 0"},
  };
}

std::vector<BadRequest> BadFits() {
  using O = v1::FitOptions;
  return {
      {"more directions than parameters", FitWith([](O& o) { o.set_rank(52); }), kInvalid,
       "expected 1 to 51"},
      {"more examples than there are", FitWith([](O& o) { o.set_direction_batch_size(250); }),
       kInvalid, "need 350 distinct"},
      {"a curvature batch of one", FitWith([](O& o) { o.set_curvature_batch_size(1); }), kInvalid,
       "expected at least 2, got 1"},
      {"parameters that are not there", FitWith([](O& o) { o.add_parameters("head.*"); }), kInvalid,
       "head.*"},
      {"a layer that is not there", FitWith([](O& o) { o.set_feature_layer("backbone"); }),
       kInvalid, "backbone"},
      {"memory for nothing", FitWith([](O& o) { o.set_memory_limit_bytes(1000); }), kInvalid,
       "expected at least"},
      {"noise for classes", FitWith([](O& o) { o.set_sigma_noise(0.1); }), kInvalid,
       "options.sigma_noise"},
      {"noise of the data for classes",
       FitWith([](O& o) { o.set_noise_method(v1::NOISE_METHOD_DATA); }), kInvalid,
       "options.noise_method"},
      {"more Fisher samples than any", FitWith([](O& o) {
         o.set_curvature(v1::CURVATURE_KIND_MC_FISHER);
         o.set_fisher_samples(2000000000);
       }),
       kInvalid, "options.fisher_samples"},
      {"a prior beyond numbers", FitWith([](O& o) { o.set_prior_precision(1e308); }), kInvalid,
       "expected a number from"},
      {"data that are not there", Fit([](auto&, auto& r) { r.set_train_dataset_id(kNoDataset); }),
       kNotFound, "train_dataset_id"},
      {"validation data that are not there",
       Fit([](auto&, auto& r) { r.set_validation_dataset_id(kNoDataset); }), kNotFound,
       "validation_dataset_id"},
      {"a model that is not there", Fit([](auto&, auto& r) { r.set_model("nope"); }), kNotFound,
       "nope"},
      {"a version that is not there", Fit([](auto&, auto& r) { r.set_version(7); }), kNotFound,
       "mlp/7"},
  };
}

std::vector<BadRequest> BadPosteriors() {
  using P = v1::PosteriorService;
  using O = v1::OperationService;
  const auto update = [](auto change) {
    return Unary<P, v1::UpdatePosteriorRequest, v1::UpdatePosteriorResponse>(
        &P::Stub::UpdatePosterior, [=](const Site& site, auto& r) {
          r.set_model("mlp");
          r.set_dataset_id(site.train_dataset);
          change(r);
        });
  };
  const auto calibrate = [](auto change) {
    return Unary<P, v1::CalibrateOodRequest, v1::CalibrateOodResponse>(
        &P::Stub::CalibrateOod, [=](const Site& site, auto& r) {
          r.set_model("mlp");
          r.set_dataset_id(site.train_dataset);
          change(r);
        });
  };
  return {
      {"an update with the data of the fit", update([](auto&) {}), kInvalid,
       "has these examples already"},
      {"an update of nothing that is there", update([](auto& r) { r.set_posterior_id("p-0"); }),
       kNotFound, "p-0"},
      {"an update with data that are not there",
       update([](auto& r) { r.set_dataset_id(kNoDataset); }), kNotFound, "dataset_id"},
      {"a calibration with data that are not there",
       calibrate([](auto& r) { r.set_dataset_id(kNoDataset); }), kNotFound, "dataset_id"},
      {"a calibration of a score that is none",
       calibrate([](auto& r) { r.set_default_ood_score("entropie"); }), kInvalid, "entropie"},
      {"a calibration to everything", calibrate([](auto& r) { r.set_target_id_rate(1); }), kInvalid,
       "below 1"},
      {"a posterior that is not there",
       Unary<P, v1::GetPosteriorRequest, v1::GetPosteriorResponse>(&P::Stub::GetPosterior,
                                                                   [](auto&, auto& r) {
                                                                     r.set_model("mlp");
                                                                     r.set_posterior_id("p-0");
                                                                   }),
       kNotFound, "p-0"},
      {"activating what is not there",
       Unary<P, v1::ActivatePosteriorRequest, v1::ActivatePosteriorResponse>(
           &P::Stub::ActivatePosterior,
           [](auto&, auto& r) {
             r.set_model("mlp");
             r.set_posterior_id("p-0");
           }),
       kNotFound, "p-0"},
      {"deleting the active one",
       Unary<P, v1::DeletePosteriorRequest, v1::DeletePosteriorResponse>(
           &P::Stub::DeletePosterior,
           [](const Site& site, auto& r) {
             r.set_model("mlp");
             r.set_posterior_id(site.active);
           }),
       StatusCode::FAILED_PRECONDITION, "is the active one"},
      {"an operation that is not there",
       Unary<O, v1::GetOperationRequest, v1::GetOperationResponse>(
           &O::Stub::GetOperation, [](auto&, auto& r) { r.set_id("../mlp"); }),
       kNotFound, "../mlp"},
      {"cancelling what is not there",
       Unary<O, v1::CancelOperationRequest, v1::CancelOperationResponse>(
           &O::Stub::CancelOperation, [](auto&, auto& r) { r.set_id("op-0"); }),
       kNotFound, "op-0"},
  };
}

std::vector<BadRequest> BadStreams() {
  v1::PredictStreamRequest start;
  start.mutable_start()->mutable_score()->set_model("mlp");
  v1::PredictStreamRequest unknown = start;
  unknown.mutable_start()->mutable_score()->set_model("nope");
  v1::PredictStreamRequest other = start;
  other.mutable_start()->set_posterior_id("p-0");
  v1::PredictStreamRequest wide, rows;
  *wide.mutable_inputs() = Floats({1, 5});
  *rows.mutable_inputs() = Floats({2, 4});

  v1::UploadDatasetRequest header;
  header.mutable_header()->set_input_dtype(v1::DATA_TYPE_FLOAT32);
  header.mutable_header()->add_example_shape(4);
  header.mutable_header()->set_target_dtype(v1::DATA_TYPE_INT64);
  header.mutable_header()->set_n_rows(2);
  v1::UploadDatasetRequest deep = header, large = header, chunk;
  for (int i = 0; i < 40; ++i) deep.mutable_header()->add_example_shape(1);
  large.mutable_header()->set_n_rows(1 << 20);
  *chunk.mutable_chunk()->mutable_inputs() = Floats({2, 4});
  return {
      {"rows before a start", Stream({rows}), kInvalid, "first message"},
      {"rows of another width", Stream({start, rows, wide}), kInvalid, "begins with row 2"},
      {"an unknown model", Stream({unknown, rows}), kNotFound, "nope"},
      {"another posterior", Stream({other, rows}), StatusCode::FAILED_PRECONDITION, "'p-0'"},
      {"an empty stream", Stream({}), kInvalid, "empty stream"},
      {"examples of 41 dimensions", Upload({deep}), kInvalid, "dimensions"},
      {"more data than a set may have", Upload({large}), StatusCode::RESOURCE_EXHAUSTED, "limit"},
      {"inputs without targets", Upload({header, chunk}), kInvalid, "chunk.targets"},
      {"an upload without rows", Upload({header}), kInvalid, "got 0"},
      {"an empty upload", Upload({}), kInvalid, "empty stream"},
  };
}

// What a prediction says, without the time it took.
std::string PredictionBits(const Site& site) {
  const auto stub = v1::PredictionService::NewStub(site.channel);
  v1::PredictRequest request = GoodPrediction();
  request.set_return_covariance(true);
  v1::PredictResponse response;
  ClientContext context;
  SetDeadline(context);
  const Status status = stub->Predict(&context, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  response.clear_timing();
  return response.SerializeAsString();
}

TEST(BadRequestsTest, EachHasItsCodeAndMessageAndLeavesThePredictionAsItWas) {
  const google::protobuf::LogSilencer silence;
  World world;
  v1::ServerConfig config;
  config.set_max_message_bytes(1 << 20);
  world.Start(config);
  const auto client = world.Connect();
  Site site;
  site.active = world.Fit(*client);
  site.train_dataset = world.FitRequest(*client).train_dataset_id;
  site.channel = grpc::CreateChannel(world.address(), grpc::InsecureChannelCredentials());
  const std::string before = PredictionBits(site);
  ASSERT_FALSE(before.empty());
  const size_t operations = client->ListOperations()->size();
  const size_t posteriors = client->ListPosteriors("mlp")->size();

  size_t sent = 0;
  for (const auto& table : {BadBytes(), BadNames(), BadPredictions(), BadInferences(), BadFits(),
                            BadPosteriors(), BadStreams()}) {
    for (const BadRequest& bad : table) {
      SCOPED_TRACE(bad.name);
      const Status status = bad.send(site);
      ++sent;
      EXPECT_EQ(status.error_code(), bad.code) << status.error_message();
      EXPECT_NE(status.error_code(), StatusCode::UNKNOWN);
      EXPECT_NE(status.error_code(), StatusCode::INTERNAL);
      EXPECT_THAT(status.error_message(), HasSubstr(bad.fragment));
      EXPECT_LT(status.error_message().size(), 1000u);
    }
  }
  EXPECT_GE(sent, 200u);
  EXPECT_EQ(client->ListOperations()->size(), operations);
  EXPECT_EQ(client->ListPosteriors("mlp")->size(), posteriors);
  EXPECT_EQ(PredictionBits(site), before);
}

}  // namespace
}  // namespace laplaced::integration
