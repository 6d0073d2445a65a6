#include "server/rpc/prediction_service.h"

#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/client_call.h"
#include "tests/support/test_server.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;
using grpc::StatusCode;
using test_support::Call;
using test_support::ComputeGate;
using test_support::Event;
using test_support::GoodPredictRequest;
using test_support::MakeTensor;
using test_support::PredictCall;
using test_support::TestServer;
using test_support::WaitForQueue;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

using PredictionStub = v1::PredictionService::Stub;

grpc::Status Predict(TestServer& server, const v1::PredictRequest& request,
                     v1::PredictResponse* response) {
  return Call(*server.predictions, &PredictionStub::Predict, request, response);
}

v1::ServerConfig QueueOf(int32_t places) {
  v1::ServerConfig config;
  config.set_max_queue(places);
  return config;
}

TEST(PredictionServiceTest, PredictAnswersWithEverythingTheModelSays) {
  TestServer server;
  v1::PredictRequest request = GoodPredictRequest();
  request.set_return_covariance(true);
  request.set_prior_precision(7);
  request.add_ood_scores("energy");
  request.add_ood_scores("variance");
  v1::PredictResponse response;
  const grpc::Status status = Predict(server, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.model(), "net");
  EXPECT_EQ(response.version(), 1);
  EXPECT_EQ(response.posterior_id(), "p-1");
  EXPECT_THAT(response.mean().shape(), ElementsAre(2, 3));
  EXPECT_THAT(response.mean().float32_values(), ElementsAre(1, 1, 1, 3, 3, 3));
  EXPECT_THAT(response.functional_covariance().shape(), ElementsAre(2, 3, 3));
  EXPECT_EQ(response.functional_covariance().float32_values_size(), 18);
  EXPECT_THAT(response.epistemic().shape(), ElementsAre(2));
  EXPECT_EQ(response.prior_precision(), 7);
  EXPECT_GE(response.timing().queue_seconds(), 0);
  EXPECT_GE(response.timing().compute_seconds(), 0);
  ASSERT_EQ(response.ood_scores_size(), 2);
  EXPECT_THAT(response.ood_scores(0).values(), ElementsAre(0, 1));
  EXPECT_THAT(response.ood_scores(0).is_ood(), ElementsAre(false, true));
  EXPECT_EQ(response.ood_scores(0).threshold(), 0.5);
  EXPECT_FALSE(response.ood_scores(1).has_threshold());
  EXPECT_EQ(response.ood_scores(1).is_ood_size(), 0);
}

TEST(PredictionServiceTest, RawValuesMeanTheSameAsFloats) {
  TestServer server;
  v1::PredictRequest request = GoodPredictRequest();
  const float values[] = {1, 2, 3, 4};
  request.mutable_inputs()->clear_float32_values();
  request.mutable_inputs()->set_raw_values(values, sizeof values);
  v1::PredictResponse response;
  ASSERT_TRUE(Predict(server, request, &response).ok());
  EXPECT_THAT(response.mean().float32_values(), ElementsAre(1, 1, 1, 3, 3, 3));
}

TEST(PredictionServiceTest, ModeAndDrawsReachTheModelAndComeBack) {
  TestServer server;
  v1::PredictRequest request = GoodPredictRequest();
  request.set_variance_mode(v1::VARIANCE_MODE_TOP_CLASSES);
  request.set_top_classes(2);
  request.set_temperature(0.5);
  request.set_return_samples(4);
  request.set_seed(9);
  v1::PredictResponse response;
  grpc::Status status = Predict(server, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.variance_mode(), v1::VARIANCE_MODE_TOP_CLASSES);
  EXPECT_EQ(response.top_classes(), 2);
  EXPECT_EQ(response.temperature(), 0.5);
  EXPECT_EQ(response.estimated_flops(), 1e6);
  EXPECT_THAT(response.functional_variance().shape(), ElementsAre(2, 2));
  EXPECT_THAT(response.variance_outputs().shape(), ElementsAre(2, 2));
  EXPECT_EQ(response.variance_outputs().dtype(), v1::DATA_TYPE_INT64);
  EXPECT_EQ(response.variance_outputs().raw_values().size(), 4 * sizeof(int64_t));
  EXPECT_THAT(response.left_out_probability().float32_values(), ElementsAre(0.125f, 0.125f));
  EXPECT_THAT(response.left_out_bound().float32_values(), ElementsAre(0.25f, 0.25f));
  EXPECT_THAT(response.function_samples().shape(), ElementsAre(4, 2, 3));
  EXPECT_EQ(response.function_samples().float32_values(0), 9);

  request = GoodPredictRequest();
  request.set_return_joint_covariance(true);
  response.Clear();
  ASSERT_TRUE(Predict(server, request, &response).ok());
  EXPECT_EQ(response.variance_mode(), v1::VARIANCE_MODE_EXACT);
  EXPECT_THAT(response.joint_covariance().shape(), ElementsAre(2, 3, 2, 3));
  EXPECT_FALSE(response.has_variance_outputs());
  EXPECT_FALSE(response.has_function_samples());

  v1::ScoreRequest score;
  score.set_model("net");
  *score.mutable_inputs() = MakeTensor({1, 2}, {1, 2});
  score.set_variance_mode(v1::VARIANCE_MODE_SAMPLED);
  score.set_samples(8);
  v1::ScoreResponse scored;
  ASSERT_TRUE(Call(*server.predictions, &PredictionStub::Score, score, &scored).ok());
  EXPECT_EQ(scored.variance_mode(), v1::VARIANCE_MODE_SAMPLED);
  EXPECT_EQ(scored.samples(), 8);
}

TEST(PredictionServiceTest, ZeroEnumMeansTheDefault) {
  TestServer server;
  v1::PredictRequest request = GoodPredictRequest();
  v1::PredictResponse unspecified, probit, monte_carlo;
  ASSERT_TRUE(Predict(server, request, &unspecified).ok());
  request.set_link_approx(v1::LINK_APPROX_PROBIT);
  ASSERT_TRUE(Predict(server, request, &probit).ok());
  request.set_link_approx(v1::LINK_APPROX_MC);
  ASSERT_TRUE(Predict(server, request, &monte_carlo).ok());
  EXPECT_EQ(unspecified.map_mean().float32_values(0), probit.map_mean().float32_values(0));
  EXPECT_NE(unspecified.map_mean().float32_values(0), monte_carlo.map_mean().float32_values(0));
}

TEST(PredictionServiceTest, ScoreAnswersWithTheDefaultScore) {
  TestServer server;
  v1::ScoreRequest request;
  request.set_model("net");
  *request.mutable_inputs() = MakeTensor({1, 2}, {1, 2});
  v1::ScoreResponse response;
  ASSERT_TRUE(Call(*server.predictions, &PredictionStub::Score, request, &response).ok());
  ASSERT_EQ(response.ood_scores_size(), 1);
  EXPECT_EQ(response.ood_scores(0).name(), "energy");
  EXPECT_EQ(response.posterior_id(), "p-1");
}

TEST(PredictionServiceTest, RefusesAnAnswerThatCouldNotBeSent) {
  v1::ServerConfig config;
  config.set_max_message_bytes(4096);
  TestServer server(config);
  v1::PredictRequest request = GoodPredictRequest();
  *request.mutable_inputs() = MakeTensor({200, 2}, std::vector<float>(400, 0));
  request.set_return_covariance(true);
  v1::PredictResponse response;
  const grpc::Status status = Predict(server, request, &response);
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(test_support::BadFieldOf(status), "return_covariance");
  EXPECT_THAT(status.error_message(), HasSubstr("fewer examples"));

  // Whatever takes the most room is named.
  request = GoodPredictRequest();
  request.set_return_covariance(true);
  request.set_return_samples(1000);
  EXPECT_EQ(test_support::BadFieldOf(Predict(server, request, &response)), "return_samples");
  request = GoodPredictRequest();
  *request.mutable_inputs() = MakeTensor({20, 2}, std::vector<float>(40, 0));
  request.set_return_joint_covariance(true);
  EXPECT_EQ(test_support::BadFieldOf(Predict(server, request, &response)),
            "return_joint_covariance");
}

TEST(PredictionServiceTest, RefusesAMessageThatIsTooLarge) {
  v1::ServerConfig config;
  config.set_max_message_bytes(4096);
  TestServer server(config);
  v1::PredictRequest request = GoodPredictRequest();
  *request.mutable_inputs() = MakeTensor({1000, 2}, std::vector<float>(2000, 0));
  v1::PredictResponse response;
  EXPECT_EQ(Predict(server, request, &response).error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(Predict(server, GoodPredictRequest(), &response).ok());
}

TEST(PredictionServiceTest, FullQueueIsRefusedWithATimeToRetry) {
  TestServer server(QueueOf(1));
  ComputeGate gate(server);
  PredictCall running(server);
  ASSERT_TRUE(gate.WaitUntilEntered());
  PredictCall waiting(server);
  ASSERT_TRUE(WaitForQueue(server, 1));
  v1::PredictResponse response;
  const grpc::Status refused = Predict(server, GoodPredictRequest(), &response);
  EXPECT_EQ(refused.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(), HasSubstr("overloaded"));
  const auto delay = test_support::DetailOf<google::rpc::RetryInfo>(refused).retry_delay();
  EXPECT_GT(delay.seconds() + delay.nanos(), 0);
  gate.Open();
  EXPECT_TRUE(running.Wait().ok());
  EXPECT_TRUE(waiting.Wait().ok());
  EXPECT_TRUE(Predict(server, GoodPredictRequest(), &response).ok());
}

TEST(PredictionServiceTest, RequestWhoseDeadlinePassesInTheQueueIsDroppedUnrun) {
  TestServer server;
  ComputeGate gate(server);
  PredictCall running(server);
  ASSERT_TRUE(gate.WaitUntilEntered());
  PredictCall late(server, std::chrono::milliseconds(20));
  EXPECT_EQ(late.Wait().error_code(), StatusCode::DEADLINE_EXCEEDED);
  // A second one that gives up much later, so that the first one's deadline has passed at the
  // server too.
  PredictCall later(server, std::chrono::milliseconds(300));
  EXPECT_EQ(later.Wait().error_code(), StatusCode::DEADLINE_EXCEEDED);
  const int before = gate.started();
  gate.Open();
  EXPECT_TRUE(running.Wait().ok());
  v1::PredictResponse response;
  EXPECT_TRUE(Predict(server, GoodPredictRequest(), &response).ok());
  EXPECT_EQ(before, 1);
  EXPECT_LE(gate.started(), 3) << "the first late request must not have run";
}

TEST(PredictionServiceTest, PassedDeadlineIsRefusedAtOnce) {
  TestServer server;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() - std::chrono::seconds(1));
  v1::PredictResponse response;
  EXPECT_EQ(server.predictions->Predict(&context, GoodPredictRequest(), &response).error_code(),
            StatusCode::DEADLINE_EXCEEDED);
}

TEST(PredictionServiceTest, CancellationWhileQueuedLeavesTheServerAlive) {
  TestServer server;
  ComputeGate gate(server);
  PredictCall running(server);
  ASSERT_TRUE(gate.WaitUntilEntered());
  PredictCall cancelled(server);
  ASSERT_TRUE(WaitForQueue(server, 1));
  cancelled.Cancel();
  EXPECT_EQ(cancelled.Wait().error_code(), StatusCode::CANCELLED);
  // The client has gone, yet the job still holds the call's memory.
  gate.Open();
  EXPECT_TRUE(running.Wait().ok());
  ASSERT_TRUE(WaitForQueue(server, 0));
  v1::PredictResponse response;
  EXPECT_TRUE(Predict(server, GoodPredictRequest(), &response).ok());
}

TEST(PredictionServiceTest, CancellationWhileRunningReachesTheComputation) {
  TestServer server;
  Event entered;
  Event seen;
  server.host->SetComputeHook([&](const ComputeContext& context) -> absl::Status {
    entered.Set();
    while (context.Check().ok()) std::this_thread::yield();
    seen.Set();
    return context.Check();
  });
  PredictCall call(server);
  ASSERT_TRUE(entered.Wait());
  call.Cancel();
  EXPECT_EQ(call.Wait().error_code(), StatusCode::CANCELLED);
  EXPECT_TRUE(seen.Wait());
  server.host->SetComputeHook([](const ComputeContext&) { return absl::OkStatus(); });
  v1::PredictResponse response;
  EXPECT_TRUE(Predict(server, GoodPredictRequest(), &response).ok());
}

TEST(PredictionServiceTest, ClientsThatVanishAtEveryMomentDoNoHarm) {
  TestServer server;
  std::vector<std::thread> clients;
  for (int t = 0; t < 4; ++t) {
    clients.emplace_back([&server, t] {
      for (int i = 0; i < 50; ++i) {
        PredictCall call(server, std::chrono::milliseconds(1 + (i + t) % 3));
        if (i % 2 == 0) call.Cancel();
        call.Wait();
      }
    });
  }
  for (std::thread& client : clients) client.join();
  v1::PredictResponse response;
  EXPECT_TRUE(Predict(server, GoodPredictRequest(), &response).ok());
}

TEST(PredictionServiceTest, InternalErrorsAreHiddenBehindANumber) {
  TestServer server;
  for (const absl::Status& hidden :
       {absl::InternalError("secret at source.cc:12"), absl::UnknownError("secret of LibTorch")}) {
    server.host->SetComputeHook([hidden](const ComputeContext&) { return hidden; });
    v1::PredictResponse response;
    const grpc::Status status = Predict(server, GoodPredictRequest(), &response);
    EXPECT_EQ(status.error_code(), StatusCode::INTERNAL);
    EXPECT_THAT(status.error_message(), Not(HasSubstr("secret")));
    EXPECT_THAT(status.error_message(), HasSubstr("internal error "));
    EXPECT_THAT(status.error_details(), Not(HasSubstr("secret")));
  }
}

TEST(PredictionServiceTest, ExceptionOfAComputationIsAnInternalError) {
  TestServer server;
  server.host->SetComputeHook(
      [](const ComputeContext&) -> absl::Status { throw std::runtime_error("secret"); });
  v1::PredictResponse response;
  const grpc::Status status = Predict(server, GoodPredictRequest(), &response);
  EXPECT_EQ(status.error_code(), StatusCode::INTERNAL);
  EXPECT_THAT(status.error_message(), Not(HasSubstr("secret")));
  server.host->SetComputeHook([](const ComputeContext&) { return absl::OkStatus(); });
  EXPECT_TRUE(Predict(server, GoodPredictRequest(), &response).ok());
}

TEST(PredictionServiceTest, ConcurrentClientsGetTheirOwnAnswers) {
  TestServer server;
  std::vector<std::thread> clients;
  for (int t = 0; t < 4; ++t) {
    clients.emplace_back([&server, t] {
      const auto channel =
          grpc::CreateChannel(server.server->address(), grpc::InsecureChannelCredentials());
      const auto stub = v1::PredictionService::NewStub(channel);
      for (int i = 0; i < 50; ++i) {
        const float mark = static_cast<float>(1000 * t + i);
        v1::PredictRequest request = GoodPredictRequest();
        request.mutable_inputs()->set_float32_values(0, mark);
        v1::PredictResponse response;
        ASSERT_TRUE(Call(*stub, &PredictionStub::Predict, request, &response).ok());
        ASSERT_EQ(response.mean().float32_values(0), mark);
      }
    });
  }
  for (std::thread& client : clients) client.join();
}

TEST(PredictionServiceTest, RequestKeepsTheModelItStartedWith) {
  TestServer server;
  ComputeGate gate(server);
  PredictCall running(server);
  ASSERT_TRUE(gate.WaitUntilEntered());
  v1::UnloadModelRequest request;
  request.set_name("net");
  v1::UnloadModelResponse response;
  EXPECT_TRUE(Call(*server.models, &v1::ModelService::Stub::UnloadModel, request, &response).ok());
  gate.Open();
  EXPECT_TRUE(running.Wait().ok());
  v1::PredictResponse prediction;
  EXPECT_EQ(Predict(server, GoodPredictRequest(), &prediction).error_code(), StatusCode::NOT_FOUND);
}

}  // namespace
}  // namespace laplaced
