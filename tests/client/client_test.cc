#include "client/cpp/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "client/cpp/errors.h"
#include "tests/client/fake_server.h"
#include "tests/client/statusless_server.h"

namespace laplace::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Retries that do not slow the tests down.
ClientOptions FastOptions() {
  ClientOptions options;
  options.retry.initial_backoff = absl::Milliseconds(2);
  options.retry.max_backoff = absl::Milliseconds(10);
  return options;
}

std::unique_ptr<Client> ConnectTo(const FakeServer& server, const ClientOptions& options) {
  auto client = Client::Connect(server.address(), options);
  EXPECT_TRUE(client.ok()) << client.status();
  return *std::move(client);
}

// Rows of two pixels.
Array Pixels(const std::string& bytes) {
  Array array;
  array.dtype = DType::kUint8;
  array.shape = {static_cast<int64_t>(bytes.size()) / 2, 1, 2};
  array.bytes = bytes;
  return array;
}

grpc::Status Unavailable() { return {grpc::StatusCode::UNAVAILABLE, "draining"}; }

TEST(Connect, RefusesAnEmptyTarget) {
  EXPECT_EQ(Client::Connect("").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Connect, RefusesACallWithoutDeadline) {
  ClientOptions options;
  options.predict_timeout = absl::InfiniteDuration();
  const absl::Status status = Client::Connect("localhost:1", options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("predict_timeout"));
}

TEST(Models, ArriveWithAllTheirFields) {
  FakeServer server;
  const auto model = ConnectTo(server, FastOptions())->LoadModel("digits");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->version, 3);
  EXPECT_EQ(model->state, ModelState::kReady);
  EXPECT_EQ(model->likelihood, Likelihood::kCategorical);
  EXPECT_THAT(model->input_shape, ElementsAre(1, 2));
  EXPECT_TRUE(model->accepts_uint8);
  EXPECT_EQ(model->n_outputs, 3);
  EXPECT_EQ(model->n_parameters, 12345);
  EXPECT_THAT(model->class_names, ElementsAre("zero", "one", "two"));
  EXPECT_EQ(model->active_posterior_id, "p-1");
  EXPECT_EQ(model->bias_weight_decay, 0.002);
  EXPECT_THAT(model->last_layer_parameters, ElementsAre("head.weight", "head.bias"));
}

TEST(Models, ArriveWithTheirLikelihood) {
  FakeServer server;
  server.ChangeModel([](v1::Model& model) { model.set_likelihood(v1::LIKELIHOOD_BERNOULLI); });
  EXPECT_EQ(ConnectTo(server, FastOptions())->GetModel("digits")->likelihood,
            Likelihood::kBernoulli);
}

TEST(Errors, KeepCodeMessageAndField) {
  FakeServer server;
  server.FailNext("GetModel", ErrorWithField(grpc::StatusCode::INVALID_ARGUMENT,
                                             "name: expected letters", "name", "expected letters"));
  const absl::Status status = ConnectTo(server, FastOptions())->GetModel("?").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "name: expected letters");
  const std::vector<FieldViolation> violations = FieldViolations(status);
  ASSERT_EQ(violations.size(), 1u);
  EXPECT_EQ(violations[0].field, "name");
  EXPECT_EQ(violations[0].description, "expected letters");
}

TEST(Errors, WithoutDetailsHaveNoFieldAndNoDelay) {
  FakeServer server;
  const absl::Status status = ConnectTo(server, FastOptions())->GetModel("nobody").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(FieldViolations(status).empty());
  EXPECT_FALSE(RetryDelay(status).has_value());
}

TEST(Errors, SayWhichAddressDoesNotAnswer) {
  std::string address;
  {
    FakeServer server;
    address = server.address();
  }
  auto client = Client::Connect(address, FastOptions());
  const absl::Status status = (*client)->ListModels().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr(address));
}

TEST(Retries, UnavailableIsTriedAgain) {
  FakeServer server;
  server.FailNext("ListModels", Unavailable());
  server.FailNext("ListModels", Unavailable());
  const auto models = ConnectTo(server, FastOptions())->ListModels();
  ASSERT_TRUE(models.ok()) << models.status();
  EXPECT_EQ(models->size(), 2u);
  EXPECT_EQ(server.Calls("ListModels"), 3);
}

TEST(Retries, EndAfterTheLastAttempt) {
  FakeServer server;
  for (int i = 0; i < 10; ++i) server.FailNext("ListModels", Unavailable());
  EXPECT_EQ(ConnectTo(server, FastOptions())->ListModels().status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(server.Calls("ListModels"), FastOptions().retry.max_attempts);
}

TEST(Retries, OtherErrorsAreFinal) {
  FakeServer server;
  server.FailNext("ListModels", {grpc::StatusCode::INTERNAL, "bug"});
  EXPECT_FALSE(ConnectTo(server, FastOptions())->ListModels().ok());
  EXPECT_EQ(server.Calls("ListModels"), 1);
}

// The peer is a proxy whose server is gone, or a server that ended without a word.
TEST(Retries, ACallThatEndsWithoutAStatusIsTriedAgain) {
  constexpr uint8_t kNoError = 0, kInternalError = 2, kCancel = 8;
  for (const absl::optional<uint8_t> code :
       {absl::optional<uint8_t>(), absl::make_optional(kNoError),
        absl::make_optional(kInternalError), absl::make_optional(kCancel)}) {
    StatuslessServer server(code);
    const auto client = Client::Connect(server.address(), FastOptions());
    ASSERT_TRUE(client.ok()) << client.status();
    const absl::Status status = (*client)->ListModels().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(code ? "RST_STREAM" : "is unavailable"));
    EXPECT_EQ(server.calls(), FastOptions().retry.max_attempts) << status;
  }
}

TEST(Retries, NeverComeBackEarlierThanTheServerAsked) {
  FakeServer server;
  server.FailNext("Predict", ErrorWithRetryDelay(grpc::StatusCode::RESOURCE_EXHAUSTED,
                                                 "queue is full", absl::Milliseconds(200)));
  const absl::Time start = absl::Now();
  const auto client = ConnectTo(server, FastOptions());
  const auto answer = client->Predict({"digits", 0, Pixels("ab")});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(server.Calls("Predict"), 2);
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(200));
}

TEST(Retries, ALimitWithoutADelayIsFinal) {
  FakeServer server;
  server.FailNext("Predict", {grpc::StatusCode::RESOURCE_EXHAUSTED, "message too large"});
  EXPECT_EQ(ConnectTo(server, FastOptions())->Predict({"digits", 0, Pixels("ab")}).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(server.Calls("Predict"), 1);
}

TEST(Retries, AreNotWaitedForBeyondTheDeadline) {
  FakeServer server;
  server.FailNext("Predict", ErrorWithRetryDelay(grpc::StatusCode::RESOURCE_EXHAUSTED,
                                                 "queue is full", absl::Minutes(5)));
  ClientOptions options = FastOptions();
  options.predict_timeout = absl::Seconds(5);
  const absl::Time start = absl::Now();
  const absl::Status status =
      ConnectTo(server, options)->Predict({"digits", 0, Pixels("ab")}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(RetryDelay(status), absl::Minutes(5));
  EXPECT_LT(absl::Now() - start, absl::Seconds(4));
}

TEST(Retries, StartingAFitIsNeverRepeated) {
  FakeServer server;
  server.FailNext("FitPosterior", Unavailable());
  const absl::Status unavailable = ConnectTo(server, FastOptions())->StartFit({"digits"}).status();
  EXPECT_EQ(unavailable.code(), absl::StatusCode::kUnavailable);
  server.FailNext("FitPosterior", ErrorWithRetryDelay(grpc::StatusCode::RESOURCE_EXHAUSTED,
                                                      "a fit is running", absl::Milliseconds(1)));
  const absl::Status exhausted = ConnectTo(server, FastOptions())->StartFit({"digits"}).status();
  EXPECT_EQ(exhausted.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(server.Calls("FitPosterior"), 2);
}

TEST(Retries, StartingAnUpdateIsNeverRepeated) {
  FakeServer server;
  server.FailNext("UpdatePosterior", Unavailable());
  EXPECT_EQ(ConnectTo(server, FastOptions())->StartUpdate({"digits"}).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(server.Calls("UpdatePosterior"), 1);
}

TEST(Retries, StartingACalibrationIsNeverRepeated) {
  FakeServer server;
  server.FailNext("CalibrateOod", Unavailable());
  EXPECT_EQ(ConnectTo(server, FastOptions())->StartCalibrate({"digits"}).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(server.Calls("CalibrateOod"), 1);
}

TEST(Deadlines, EndACallThatTheServerSitsOn) {
  FakeServer server;
  server.Delay("ListModels", absl::Seconds(30));
  ClientOptions options = FastOptions();
  options.timeout = absl::Milliseconds(150);
  const absl::Time start = absl::Now();
  const absl::Status status = ConnectTo(server, options)->ListModels().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("150ms"));
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
}

TEST(Predict, SendsTheRequestAndReadsTheAnswer) {
  FakeServer server;
  PredictRequest request;
  request.model = "digits";
  request.version = 3;
  request.inputs = Pixels(std::string("\x01\x05\x02\xC8", 4));
  request.prior_precision = 2.5;
  request.link_approx = LinkApprox::kMonteCarlo;
  request.ood_scores = {"variance"};
  const auto answer = ConnectTo(server, FastOptions())->Predict(request);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->batch, 2);
  EXPECT_EQ(answer->outputs, 3);
  EXPECT_THAT(answer->mean, ElementsAre(0.1f, 0.8f, 0.1f, 0.1f, 0.1f, 0.8f));
  EXPECT_THAT(answer->epistemic, ElementsAre(0.25f, 0.25f));
  ASSERT_EQ(answer->ood_scores.size(), 1u);
  EXPECT_THAT(answer->ood_scores[0].values, ElementsAre(5, 200));
  EXPECT_THAT(answer->ood_scores[0].is_ood, ElementsAre(false, true));

  const v1::PredictRequest sent = server.LastPredict();
  EXPECT_EQ(sent.version(), 3);
  EXPECT_EQ(sent.inputs().dtype(), v1::DATA_TYPE_UINT8);
  EXPECT_THAT(sent.inputs().shape(), ElementsAre(2, 1, 2));
  EXPECT_EQ(sent.prior_precision(), 2.5);
  EXPECT_EQ(sent.link_approx(), v1::LINK_APPROX_MC);
}

TEST(Predict, SendsTheModeAndReadsWhatComesWithIt) {
  FakeServer server;
  PredictRequest request;
  request.model = "digits";
  request.inputs = Pixels(std::string("\x01\x05\x02\xC8", 4));
  request.link_approx = LinkApprox::kMeanField;
  request.variance_mode = VarianceMode::kTopClasses;
  request.top_classes = 1;
  request.seed = 7;
  request.temperature = 0.5;
  request.return_samples = 2;
  const auto client = ConnectTo(server, FastOptions());
  const auto top = client->Predict(request);
  ASSERT_TRUE(top.ok()) << top.status();
  const v1::PredictRequest sent = server.LastPredict();
  EXPECT_EQ(sent.link_approx(), v1::LINK_APPROX_MEAN_FIELD);
  EXPECT_EQ(sent.variance_mode(), v1::VARIANCE_MODE_TOP_CLASSES);
  EXPECT_EQ(sent.top_classes(), 1);
  EXPECT_EQ(sent.seed(), 7u);
  EXPECT_EQ(sent.return_samples(), 2);
  EXPECT_EQ(top->variance_mode, VarianceMode::kTopClasses);
  EXPECT_EQ(top->variance_width, 1);
  EXPECT_EQ(top->temperature, 0.5);
  EXPECT_THAT(top->functional_variance, ElementsAre(2, 2));
  EXPECT_THAT(top->variance_outputs, ElementsAre(1, 1));
  EXPECT_THAT(top->left_out_bound, ElementsAre(0.25f, 0.25f));
  EXPECT_THAT(top->function_samples,
              ElementsAre(5, 5, 5, 200, 200, 200, 1005, 1005, 1005, 1200, 1200, 1200));

  request = {"digits", 0, request.inputs};
  request.return_joint_covariance = true;
  request.link_approx = LinkApprox::kLaplaceBridge;
  request.variance_mode = VarianceMode::kLastLayer;
  const auto joint = client->Predict(request);
  ASSERT_TRUE(joint.ok()) << joint.status();
  EXPECT_EQ(server.LastPredict().link_approx(), v1::LINK_APPROX_LAPLACE_BRIDGE);
  EXPECT_FALSE(server.LastPredict().has_temperature());
  EXPECT_EQ(joint->variance_mode, VarianceMode::kLastLayer);
  EXPECT_EQ(joint->variance_width, 3);
  EXPECT_EQ(joint->joint_covariance.size(), 36u);
}

TEST(Predict, ReadsUncertaintyPerOutputWhereTheModelHasIt) {
  FakeServer server;
  v1::PredictResponse response;
  const auto set = [](v1::Tensor& tensor, const std::vector<float>& values) {
    tensor.set_dtype(v1::DATA_TYPE_FLOAT32);
    tensor.add_shape(1);
    tensor.add_shape(2);
    tensor.mutable_float32_values()->Add(values.begin(), values.end());
  };
  for (v1::Tensor* tensor :
       {response.mutable_mean(), response.mutable_map_mean(), response.mutable_functional_mean(),
        response.mutable_functional_variance()}) {
    set(*tensor, {0.25f, 0.75f});
  }
  set(*response.mutable_epistemic(), {0.1f, 0.2f});
  set(*response.mutable_aleatoric(), {0.3f, 0.4f});
  server.SetPrediction(response);
  const auto answer = ConnectTo(server, FastOptions())->Predict({"digits", 0, Pixels("ab")});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_THAT(answer->epistemic, ElementsAre(0.1f, 0.2f));
  EXPECT_THAT(answer->aleatoric, ElementsAre(0.3f, 0.4f));
}

TEST(Predict, RefusesAnArrayWhoseBytesDoNotMatchItsShape) {
  FakeServer server;
  Array inputs = Pixels("abcd");
  inputs.shape[0] = 3;
  EXPECT_EQ(ConnectTo(server, FastOptions())->Predict({"digits", 0, inputs}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(server.Calls("Predict"), 0);
}

TEST(Predict, RefusesAnAnswerThatContradictsItself) {
  FakeServer server;
  v1::PredictResponse response;
  response.mutable_mean()->set_dtype(v1::DATA_TYPE_FLOAT32);
  response.mutable_mean()->add_shape(1);
  response.mutable_mean()->add_shape(3);
  response.mutable_mean()->add_float32_values(1);
  server.SetPrediction(response);
  const absl::Status status =
      ConnectTo(server, FastOptions())->Predict({"digits", 0, Pixels("ab")}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("mean: expected 3 values, got 1"));
}

TEST(Client, MayBeUsedByManyThreads) {
  FakeServer server;
  const auto client = ConnectTo(server, FastOptions());
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&client] {
      for (int i = 0; i < 20; ++i) {
        EXPECT_TRUE(client->Predict({"digits", 0, Pixels("ab")}).ok());
        EXPECT_TRUE(client->Score({"digits", 0, Pixels("ab")}).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(server.Calls("Predict"), 160);
}

TEST(Health, FollowsTheServer) {
  FakeServer server;
  const auto client = ConnectTo(server, FastOptions());
  EXPECT_EQ(*client->Health(), HealthState::kServing);
  server.SetServing(false);
  EXPECT_EQ(*client->Health(), HealthState::kNotServing);
  EXPECT_EQ(client->Health("nobody").status().code(), absl::StatusCode::kNotFound);
}

TEST(Posteriors, AreListedDescribedAndActivated) {
  FakeServer server;
  const auto client = ConnectTo(server, FastOptions());
  const auto all = client->ListPosteriors("digits");
  ASSERT_TRUE(all.ok()) << all.status();
  ASSERT_EQ(all->size(), 2u);
  EXPECT_TRUE((*all)[0].active);
  const auto one = client->GetPosterior("digits", 0, "p-0");
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ(one->id, "p-0");
  EXPECT_THAT(one->biased_eigenvalues, ElementsAre(4, 2));
  EXPECT_EQ(one->options.debiasing, Debiasing::kTwoBatch);
  EXPECT_TRUE(client->ActivatePosterior("digits", 3, "p-0").ok());
  EXPECT_TRUE(client->UnloadModel("digits").ok());
}

TEST(Posteriors, AreDeletedAlsoWhenAnAnswerWasLost) {
  FakeServer server;
  const auto client = ConnectTo(server, FastOptions());
  EXPECT_TRUE(client->DeletePosterior("digits", 0, "p-0").ok());
  EXPECT_EQ(client->DeletePosterior("digits", 0, "p-9").code(), absl::StatusCode::kNotFound);
  server.FailNext("DeletePosterior", grpc::Status(grpc::StatusCode::UNAVAILABLE, "cut off"));
  EXPECT_TRUE(client->DeletePosterior("digits", 0, "p-9").ok());
  EXPECT_EQ(server.Calls("DeletePosterior"), 4);
  // What was refused has not been done.
  server.FailNext("DeletePosterior", ErrorWithRetryDelay(grpc::StatusCode::RESOURCE_EXHAUSTED,
                                                         "queue is full", absl::Milliseconds(1)));
  EXPECT_EQ(client->DeletePosterior("digits", 0, "p-9").code(), absl::StatusCode::kNotFound);
  server.FailNext("DeletePosterior", grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "active"));
  EXPECT_EQ(client->DeletePosterior("digits", 0, "p-1").code(),
            absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace laplace::client
