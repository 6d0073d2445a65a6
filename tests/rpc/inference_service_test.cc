#include "server/rpc/inference_service.h"

#include <google/protobuf/stubs/logging.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/rpc/inference_request.h"
#include "tests/support/client_call.h"
#include "tests/support/test_server.h"

namespace laplaced {
namespace {

using grpc::StatusCode;
using inference::ModelInferRequest;
using inference::ModelInferResponse;
using test_support::BadFieldOf;
using test_support::Call;
using test_support::TestServer;
using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Stub = inference::GRPCInferenceService::Stub;

ModelInferRequest GoodRequest() {
  ModelInferRequest request;
  request.set_model_name("net");
  request.set_id("order-17");
  auto* input = request.add_inputs();
  input->set_name("x");
  input->set_datatype("FP32");
  input->add_shape(2);
  input->add_shape(2);
  for (const float v : {1.0f, 2.0f, 3.0f, 4.0f}) input->mutable_contents()->add_fp32_contents(v);
  return request;
}

ModelInferRequest RawRequest() {
  ModelInferRequest request = GoodRequest();
  request.mutable_inputs(0)->clear_contents();
  const float values[] = {1, 2, 3, 4};
  request.add_raw_input_contents(values, sizeof values);
  return request;
}

class InferenceServiceTest : public ::testing::Test {
 protected:
  grpc::Status Infer(const ModelInferRequest& request) {
    response_.Clear();
    return Call(*stub_, &Stub::ModelInfer, request, &response_);
  }

  void ExpectRefused(const std::function<void(ModelInferRequest&)>& change,
                     const std::string& field, const std::string& part) {
    ModelInferRequest request = GoodRequest();
    change(request);
    const grpc::Status status = Infer(request);
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT) << status.error_message();
    EXPECT_EQ(BadFieldOf(status), field) << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr(part));
  }

  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& output : response_.outputs()) names.push_back(output.name());
    return names;
  }

  TestServer server_;
  std::unique_ptr<Stub> stub_ = inference::GRPCInferenceService::NewStub(server_.channel);
  ModelInferResponse response_;
};

TEST_F(InferenceServiceTest, ProbesAnswer) {
  inference::ServerLiveResponse live;
  EXPECT_TRUE(Call(*stub_, &Stub::ServerLive, {}, &live).ok());
  EXPECT_TRUE(live.live());
  inference::ServerReadyResponse ready;
  EXPECT_TRUE(Call(*stub_, &Stub::ServerReady, {}, &ready).ok());
  EXPECT_TRUE(ready.ready());
}

TEST_F(InferenceServiceTest, ModelsAreReadyWithAPosterior) {
  const auto ready = [&](const std::string& name, const std::string& version) {
    inference::ModelReadyRequest request;
    request.set_name(name);
    request.set_version(version);
    inference::ModelReadyResponse response;
    EXPECT_TRUE(Call(*stub_, &Stub::ModelReady, request, &response).ok());
    return response.ready();
  };
  EXPECT_TRUE(ready("net", ""));
  EXPECT_TRUE(ready("net", "1"));
  EXPECT_FALSE(ready("net", "2"));
  EXPECT_FALSE(ready("bare", ""));
  EXPECT_FALSE(ready("nosuch", ""));
  inference::ModelReadyRequest bad;
  bad.set_name("net");
  bad.set_version("one");
  inference::ModelReadyResponse response;
  const grpc::Status status = Call(*stub_, &Stub::ModelReady, bad, &response);
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(BadFieldOf(status), "version");
}

TEST_F(InferenceServiceTest, MetadataDescribesServerAndModel) {
  inference::ServerMetadataResponse about;
  ASSERT_TRUE(Call(*stub_, &Stub::ServerMetadata, {}, &about).ok());
  EXPECT_EQ(about.name(), "laplaced");
  EXPECT_FALSE(about.version().empty());
  EXPECT_THAT(about.extensions(), ElementsAre("schedule_policy"));

  server_.host->Add("net", 3, "p-7");
  inference::ModelMetadataRequest request;
  request.set_name("net");
  inference::ModelMetadataResponse model;
  ASSERT_TRUE(Call(*stub_, &Stub::ModelMetadata, request, &model).ok());
  EXPECT_EQ(model.name(), "net");
  EXPECT_THAT(model.versions(), ElementsAre("1", "3"));
  EXPECT_EQ(model.platform(), "pytorch_torchscript");
  ASSERT_EQ(model.inputs_size(), 1);
  EXPECT_EQ(model.inputs(0).datatype(), "FP32");
  EXPECT_THAT(model.inputs(0).shape(), ElementsAre(-1, 2));
  ASSERT_EQ(model.outputs_size(), 6);
  EXPECT_EQ(model.outputs(0).name(), "mean");
  EXPECT_THAT(model.outputs(0).shape(), ElementsAre(-1, 3));
  EXPECT_EQ(model.outputs(4).name(), "instance_score");
  EXPECT_EQ(model.outputs(4).datatype(), "FP64");
  EXPECT_EQ(model.outputs(5).datatype(), "BOOL");
  EXPECT_EQ(model.properties().at("posterior_id"), "p-7");

  request.set_name("nosuch");
  EXPECT_EQ(Call(*stub_, &Stub::ModelMetadata, request, &model).error_code(),
            StatusCode::NOT_FOUND);
}

TEST_F(InferenceServiceTest, TypedContentsComeBackTyped) {
  ASSERT_TRUE(Infer(GoodRequest()).ok());
  EXPECT_EQ(response_.model_name(), "net");
  EXPECT_EQ(response_.model_version(), "1");
  EXPECT_EQ(response_.id(), "order-17");
  EXPECT_THAT(Names(), ElementsAre("mean", "variance", "epistemic", "aleatoric", "instance_score",
                                   "is_outlier"));
  EXPECT_EQ(response_.raw_output_contents_size(), 0);
  EXPECT_THAT(response_.outputs(0).shape(), ElementsAre(2, 3));
  EXPECT_THAT(response_.outputs(0).contents().fp32_contents(), ElementsAre(1, 1, 1, 3, 3, 3));
  EXPECT_THAT(response_.outputs(2).shape(), ElementsAre(2));
  EXPECT_THAT(response_.outputs(4).contents().fp64_contents(), ElementsAre(0, 1));
  EXPECT_THAT(response_.outputs(5).contents().bool_contents(), ElementsAre(false, true));
  EXPECT_EQ(response_.parameters().at("posterior_id").string_param(), "p-1");
  EXPECT_EQ(response_.parameters().at("ood_score").string_param(), "energy");
  EXPECT_EQ(response_.parameters().at("ood_threshold").double_param(), 0.5);
  EXPECT_EQ(response_.parameters().at("variance_mode").string_param(), "exact");
  EXPECT_GT(response_.parameters().at("compute_seconds").double_param(), 0);
}

TEST_F(InferenceServiceTest, RawContentsComeBackRaw) {
  ASSERT_TRUE(Infer(RawRequest()).ok());
  ASSERT_EQ(response_.raw_output_contents_size(), 6);
  float mean[6];
  ASSERT_EQ(response_.raw_output_contents(0).size(), sizeof mean);
  std::memcpy(mean, response_.raw_output_contents(0).data(), sizeof mean);
  EXPECT_THAT(mean, ElementsAre(1, 1, 1, 3, 3, 3));
  EXPECT_EQ(response_.raw_output_contents(4).size(), 2 * sizeof(double));
  EXPECT_EQ(response_.raw_output_contents(5), std::string("\0\1", 2));
  EXPECT_FALSE(response_.outputs(0).has_contents());
}

TEST_F(InferenceServiceTest, OnlyWhatIsAskedForComesBack) {
  ModelInferRequest request = GoodRequest();
  for (const char* name : {"mean", "map_mean", "functional_mean", "functional_covariance"}) {
    request.add_outputs()->set_name(name);
  }
  ASSERT_TRUE(Infer(request).ok());
  EXPECT_THAT(Names(), ElementsAre("mean", "map_mean", "functional_mean", "functional_covariance"));
  EXPECT_THAT(response_.outputs(3).shape(), ElementsAre(2, 3, 3));
}

TEST_F(InferenceServiceTest, VariancesOfTopClassesSayOfWhich) {
  ModelInferRequest request = GoodRequest();
  auto& parameters = *request.mutable_parameters();
  parameters["variance_mode"].set_string_param("top_classes");
  parameters["top_classes"].set_int64_param(2);
  ASSERT_TRUE(Infer(request).ok());
  ASSERT_THAT(Names(), ElementsAre("mean", "variance", "epistemic", "aleatoric", "instance_score",
                                   "is_outlier", "variance_outputs"));
  EXPECT_THAT(response_.outputs(1).shape(), ElementsAre(2, 2));
  EXPECT_EQ(response_.outputs(6).datatype(), "INT64");
  EXPECT_THAT(response_.outputs(6).shape(), ElementsAre(2, 2));
  EXPECT_THAT(response_.outputs(6).contents().int64_contents(), ElementsAre(2, 2, 2, 2));
  EXPECT_EQ(response_.parameters().at("top_classes").int64_param(), 2);

  for (const char* name : {"variance_outputs", "left_out_probability", "left_out_bound"}) {
    request.add_outputs()->set_name(name);
  }
  ASSERT_TRUE(Infer(request).ok());
  ASSERT_THAT(Names(), ElementsAre("variance_outputs", "left_out_probability", "left_out_bound"));
  EXPECT_THAT(response_.outputs(1).contents().fp32_contents(), ElementsAre(0.125, 0.125));
  EXPECT_THAT(response_.outputs(2).contents().fp32_contents(), ElementsAre(0.25, 0.25));

  // In another mode no output is left out.
  parameters.clear();
  ASSERT_TRUE(Infer(request).ok());
  EXPECT_THAT(response_.outputs(0).shape(), ElementsAre(2, 3));
  EXPECT_THAT(response_.outputs(0).contents().int64_contents(), ElementsAre(0, 1, 2, 0, 1, 2));
  EXPECT_THAT(response_.outputs(1).contents().fp32_contents(), ElementsAre(0, 0));
  EXPECT_THAT(response_.outputs(2).contents().fp32_contents(), ElementsAre(0, 0));
}

TEST_F(InferenceServiceTest, ParametersAreTheOptions) {
  ModelInferRequest request = GoodRequest();
  auto& parameters = *request.mutable_parameters();
  parameters["link_approx"].set_string_param("mc");
  parameters["variance_mode"].set_string_param("sampled");
  parameters["samples"].set_int64_param(7);
  parameters["seed"].set_uint64_param(3);
  parameters["prior_precision"].set_double_param(2.5);
  parameters["temperature"].set_string_param("0.5");
  parameters["ood_score"].set_string_param("variance");
  parameters["priority"].set_int64_param(2);
  parameters["timeout"].set_int64_param(60000000);
  parameters["binary_data_output"].set_bool_param(true);
  parameters["triton_enable_empty_final_response"].set_bool_param(true);
  ASSERT_TRUE(Infer(request).ok());
  EXPECT_EQ(response_.parameters().at("variance_mode").string_param(), "sampled");
  EXPECT_EQ(response_.parameters().at("ood_score").string_param(), "variance");
  EXPECT_EQ(response_.parameters().at("samples").int64_param(), 7);
  EXPECT_EQ(response_.parameters().at("prior_precision").double_param(), 2.5);
  EXPECT_EQ(response_.parameters().at("temperature").double_param(), 0.5);
  // Made for the link MC.
  EXPECT_THAT(response_.outputs(1).contents().fp32_contents(), ElementsAre(2, 2, 2, 2, 2, 2));
  // A score without a threshold has no verdict.
  EXPECT_THAT(Names(), ElementsAre("mean", "variance", "epistemic", "aleatoric", "instance_score"));
}

TEST_F(InferenceServiceTest, ScoresAloneTakeTheShortWay) {
  ModelInferRequest request = GoodRequest();
  request.add_outputs()->set_name("is_outlier");
  request.add_outputs()->set_name("instance_score");
  ASSERT_TRUE(Infer(request).ok());
  EXPECT_THAT(Names(), ElementsAre("instance_score", "is_outlier"));
  // The fake's score needs no variance, a prediction would.
  EXPECT_EQ(response_.parameters().at("variance_mode").string_param(), "none");
  (*request.mutable_parameters())["temperature"].set_double_param(2);
  const grpc::Status status = Infer(request);
  EXPECT_EQ(BadFieldOf(status), "parameters.temperature");
}

TEST_F(InferenceServiceTest, AVerdictThatCannotBeGivenIsAnError) {
  ModelInferRequest request = GoodRequest();
  request.add_outputs()->set_name("is_outlier");
  (*request.mutable_parameters())["ood_score"].set_string_param("variance");
  const grpc::Status status = Infer(request);
  EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("calibrate"));
}

TEST_F(InferenceServiceTest, ModelsThatCannotAnswerSaySo) {
  ModelInferRequest request = GoodRequest();
  request.set_model_name("nosuch");
  EXPECT_EQ(Infer(request).error_code(), StatusCode::NOT_FOUND);
  request.set_model_name("bare");
  EXPECT_EQ(Infer(request).error_code(), StatusCode::FAILED_PRECONDITION);
}

TEST_F(InferenceServiceTest, ATimeoutIsADeadline) {
  test_support::ComputeGate gate(server_);
  ModelInferRequest request = GoodRequest();
  (*request.mutable_parameters())["timeout"].set_int64_param(1);
  const grpc::Status status = Infer(request);
  EXPECT_EQ(status.error_code(), StatusCode::DEADLINE_EXCEEDED) << status.error_message();
}

TEST_F(InferenceServiceTest, CancellationReachesTheComputation) {
  test_support::Event entered, seen;
  server_.host->SetComputeHook([&](const ComputeContext& context) -> absl::Status {
    entered.Set();
    while (context.Check().ok()) std::this_thread::yield();
    seen.Set();
    return context.Check();
  });
  grpc::ClientContext context;
  grpc::Status status;
  std::thread call([&] { status = stub_->ModelInfer(&context, GoodRequest(), &response_); });
  EXPECT_TRUE(entered.Wait());
  context.TryCancel();
  call.join();
  EXPECT_EQ(status.error_code(), StatusCode::CANCELLED);
  EXPECT_TRUE(seen.Wait());
}

// Before inputs are looked at, which costs time.
TEST(InferenceOverloadTest, FullQueuesRefuseWithATimeToComeBack) {
  laplace::v1::ServerConfig changes;
  changes.set_max_queue(1);
  TestServer server(changes);
  test_support::ComputeGate gate(server);
  const auto stub = inference::GRPCInferenceService::NewStub(server.channel);
  const auto infer = [&stub](const ModelInferRequest& request) {
    ModelInferResponse response;
    return Call(*stub, &Stub::ModelInfer, request, &response);
  };
  std::thread computing([&] { EXPECT_TRUE(infer(GoodRequest()).ok()); });
  ASSERT_TRUE(gate.WaitUntilEntered());
  std::thread waiting([&] { EXPECT_TRUE(infer(GoodRequest()).ok()); });
  EXPECT_TRUE(test_support::WaitForQueue(server, 1));
  ModelInferRequest request = GoodRequest();
  request.clear_inputs();
  const grpc::Status status = infer(request);
  gate.Open();
  computing.join();
  waiting.join();
  EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  EXPECT_TRUE(test_support::DetailOf<google::rpc::RetryInfo>(status).has_retry_delay());
}

using Request = ModelInferRequest;

TEST_F(InferenceServiceTest, BadInputsNameTheirField) {
  ExpectRefused([](Request& r) { r.clear_inputs(); }, "inputs", "expected one input, got 0");
  ExpectRefused([](Request& r) { *r.add_inputs() = r.inputs(0); }, "inputs", "got 2");
  ExpectRefused([](Request& r) { r.mutable_inputs(0)->set_datatype("FP16"); }, "inputs[0].datatype",
                "got 'FP16'");
  ExpectRefused([](Request& r) { r.mutable_inputs(0)->clear_shape(); }, "inputs[0].shape", "got 0");
  ExpectRefused([](Request& r) { r.mutable_inputs(0)->set_shape(0, -1); }, "inputs[0].shape",
                "[-1, 2]");
  ExpectRefused([](Request& r) { r.mutable_inputs(0)->set_shape(1, 0); }, "inputs[0].shape",
                "at least 1");
  ExpectRefused(
      [](Request& r) {
        for (int i = 0; i < 2; ++i) r.mutable_inputs(0)->set_shape(i, int64_t{1} << 40);
      },
      "inputs[0].shape", "can be counted");
  ExpectRefused(
      [](Request& r) {
        for (int i = 0; i < 20; ++i) r.mutable_inputs(0)->add_shape(1);
      },
      "inputs[0].shape", "dimensions");
  ExpectRefused([](Request& r) { r.mutable_inputs(0)->add_shape(1); }, "inputs[0].shape",
                "expected [B, 2]");
  ExpectRefused([](Request& r) { r.mutable_inputs(0)->mutable_contents()->add_fp32_contents(1); },
                "inputs[0].contents.fp32_contents", "expected 4 values for shape [2, 2], got 5");
  ExpectRefused([](Request& r) { r.mutable_inputs(0)->mutable_contents()->add_fp64_contents(1); },
                "inputs[0].contents", "nowhere else");
  ExpectRefused([](Request& r) { r.mutable_inputs(0)->clear_contents(); },
                "inputs[0].contents.fp32_contents", "got 0");
  ExpectRefused([](Request& r) { r.mutable_inputs(0)->set_datatype("UINT8"); },
                "inputs[0].contents", "expected elements in uint_contents and nowhere else");
  ExpectRefused(
      [](Request& r) {
        auto& input = *r.mutable_inputs(0);
        input.set_datatype("FP64");
        input.clear_contents();
        for (const double v : {1.0, 2.0, 3.0, 4.0}) input.mutable_contents()->add_fp64_contents(v);
      },
      "inputs[0].datatype", "expected float32, got float64");
  ExpectRefused(
      [](Request& r) {
        r.mutable_inputs(0)->mutable_contents()->set_fp32_contents(
            3, std::numeric_limits<float>::quiet_NaN());
      },
      "inputs[0]", "finite");
  ExpectRefused([](Request& r) { r.add_raw_input_contents("1234567890123456"); },
                "inputs[0].contents", "got both");
}

TEST_F(InferenceServiceTest, BadRawContentsNameTheirField) {
  ExpectRefused(
      [](Request& r) {
        r = RawRequest();
        r.add_raw_input_contents("1");
      },
      "raw_input_contents", "got 2");
  ExpectRefused(
      [](Request& r) {
        r = RawRequest();
        r.set_raw_input_contents(0, "123");
      },
      "raw_input_contents[0]", "expected 16 bytes for shape [2, 2], got 3");
  ExpectRefused(
      [](Request& r) {
        r = RawRequest();
        r.set_raw_input_contents(0, "");
      },
      "raw_input_contents[0]", "got 0");
}

TEST_F(InferenceServiceTest, BadNamesAndParametersNameTheirField) {
  ExpectRefused([](Request& r) { r.set_model_version("latest"); }, "model_version", "got 'latest'");
  ExpectRefused([](Request& r) { r.set_model_version("0"); }, "model_version", "got '0'");
  ExpectRefused([](Request& r) { r.set_model_name("../net"); }, "model_name", "");
  ExpectRefused([](Request& r) { r.add_outputs()->set_name("logits"); }, "outputs[0].name",
                "got 'logits'");
  ExpectRefused(
      [](Request& r) {
        r.add_outputs()->set_name("mean");
        r.add_outputs()->set_name("mean");
      },
      "outputs[1].name", "twice");
  const auto parameter = [](const std::string& name, auto set) {
    return [name, set](Request& r) { set((*r.mutable_parameters())[name]); };
  };
  using P = inference::InferParameter;
  ExpectRefused(parameter("sede", [](P& p) { p.set_int64_param(1); }), "parameters.sede",
                "is no option");
  ExpectRefused(parameter("seed", [](P& p) { p.set_int64_param(-1); }), "parameters.seed",
                "got -1");
  ExpectRefused(parameter("samples", [](P& p) { p.set_uint64_param(uint64_t{1} << 40); }),
                "parameters.samples", "whole number");
  ExpectRefused(parameter("samples", [](P& p) { p.set_int64_param(5); }), "parameters.samples",
                "SAMPLED");
  ExpectRefused(parameter("link_approx", [](P& p) { p.set_string_param("magic"); }),
                "parameters.link_approx", "got 'magic'");
  ExpectRefused(parameter("link_approx", [](P& p) { p.set_int64_param(1); }),
                "parameters.link_approx", "expected a text");
  ExpectRefused(parameter("temperature", [](P& p) { p.set_double_param(-1); }),
                "parameters.temperature", "got -1");
  ExpectRefused(parameter("prior_precision", [](P& p) { p.set_bool_param(true); }),
                "parameters.prior_precision", "expected a number");
  ExpectRefused(parameter("ood_score", [](P& p) { p.set_string_param("nosuch"); }),
                "parameters.ood_score", "got 'nosuch'");
  ExpectRefused(parameter("priority", [](P& p) { p.set_string_param("urgent"); }),
                "parameters.priority", "got 'urgent'");
}

TEST_F(InferenceServiceTest, ParametersOfTensorsThatWouldMoveThemAreErrors) {
  ExpectRefused(
      [](Request& r) {
        (*r.mutable_inputs(0)->mutable_parameters())["shared_memory_region"].set_string_param("a");
      },
      "inputs[0].parameters.shared_memory_region", "got 'a'");
  ExpectRefused(
      [](Request& r) {
        r.add_outputs()->set_name("mean");
        (*r.mutable_outputs(0)->mutable_parameters())["classification"].set_int64_param(3);
      },
      "outputs[0].parameters.classification", "got 3");
  // What MLServer's clients send means nothing here.
  ModelInferRequest request = GoodRequest();
  (*request.mutable_inputs(0)->mutable_parameters())["content_type"].set_string_param("np");
  request.add_outputs()->set_name("mean");
  (*request.mutable_outputs(0)->mutable_parameters())["binary_data"].set_bool_param(true);
  EXPECT_TRUE(Infer(request).ok());
}

// Whatever arrives gets an answer or an error that is the caller's, and the server lives on.
TEST_F(InferenceServiceTest, DamagedRequestsAreTheCallersFault) {
  const google::protobuf::LogSilencer silence;  // texts that are not UTF-8
  for (const ModelInferRequest& good : {GoodRequest(), RawRequest()}) {
    const std::string bytes = good.SerializeAsString();
    int sent = 0;
    for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
      std::string damaged = bytes;
      damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
      ModelInferRequest request;
      if (!request.ParseFromString(damaged)) continue;
      ++sent;
      const grpc::Status status = Infer(request);
      EXPECT_THAT(status.error_code(),
                  AnyOf(StatusCode::OK, StatusCode::INVALID_ARGUMENT, StatusCode::NOT_FOUND))
          << "bit " << bit << ": " << status.error_message();
      if (status.error_code() == StatusCode::INVALID_ARGUMENT) {
        EXPECT_NE(BadFieldOf(status), "") << status.error_message();
      }
    }
    EXPECT_GT(sent, 100);
    EXPECT_TRUE(Infer(good).ok());
  }
}

// Typed elements are used where the message has them.
TEST(InferenceRequestTest, ContentsAreNotCopied) {
  const ModelInferRequest typed = GoodRequest(), raw = RawRequest();
  InferenceRequest from_typed, from_raw;
  ASSERT_TRUE(ReadInferenceInputs(typed, from_typed).ok());
  ASSERT_TRUE(ReadInferenceInputs(raw, from_raw).ok());
  EXPECT_EQ(from_typed.inputs.data, typed.inputs(0).contents().fp32_contents().data());
  EXPECT_EQ(from_raw.inputs.data, raw.raw_input_contents(0).data());
}

TEST(InferenceRequestTest, PixelsMayComeAsNumbersOf32Bits) {
  ModelInferRequest message = GoodRequest();
  auto& input = *message.mutable_inputs(0);
  input.set_datatype("UINT8");
  input.clear_contents();
  for (const uint32_t v : {0u, 7u, 128u, 255u}) input.mutable_contents()->add_uint_contents(v);
  InferenceRequest request;
  ASSERT_TRUE(ReadInferenceInputs(message, request).ok());
  EXPECT_EQ(request.inputs.dtype, DType::kUint8);
  const auto* bytes = static_cast<const uint8_t*>(request.inputs.data);
  EXPECT_THAT(std::vector<int>(bytes, bytes + 4), ElementsAre(0, 7, 128, 255));
  EXPECT_FALSE(request.raw);

  input.mutable_contents()->set_uint_contents(2, 256);
  EXPECT_THAT(std::string(ReadInferenceInputs(message, request).message()),
              AllOf(HasSubstr("uint_contents[2]"), HasSubstr("got 256")));
  input.mutable_contents()->add_uint_contents(1);
  EXPECT_THAT(std::string(ReadInferenceInputs(message, request).message()),
              HasSubstr("expected 4 values for shape [2, 2], got 5"));
}

}  // namespace
}  // namespace laplaced
