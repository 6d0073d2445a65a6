// From answers to /metrics: what the services count, and for whom.
#include <chrono>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/http_get.h"
#include "tests/support/test_server.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;
using test_support::Call;
using test_support::GoodPredictRequest;
using test_support::HttpGet;
using test_support::MakeTensor;
using test_support::TestServer;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using PredictionStub = v1::PredictionService::Stub;

// Values of a metric's series of a posterior, in the order of the text.
std::vector<std::string> Values(const TestServer& server, const std::string& name,
                                const std::string& posterior) {
  std::vector<std::string> values;
  const std::string text = HttpGet(server.server->http_address(), "/metrics").body;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::string series(line);
    if (series.rfind(name + "{", 0) != 0) continue;
    if (series.find(absl::StrCat("posterior=\"", posterior, "\"")) == std::string::npos) continue;
    EXPECT_THAT(series, HasSubstr("model=\"net\""));
    EXPECT_THAT(series, HasSubstr("version=\"1\""));
    EXPECT_THAT(series, HasSubstr("score=\"energy\"")) << "only scores with a threshold";
    values.push_back(series.substr(series.rfind(' ') + 1));
  }
  return values;
}

// Two examples, of which the fake's energy flags the second.
void Predict(TestServer& server) {
  v1::PredictRequest request = GoodPredictRequest();
  request.add_ood_scores("energy");
  request.add_ood_scores("variance");
  v1::PredictResponse response;
  ASSERT_TRUE(Call(*server.predictions, &PredictionStub::Predict, request, &response).ok());
}

TEST(DriftMetricsTest, EveryWayToAScoreIsCounted) {
  TestServer server;
  EXPECT_THAT(Values(server, "laplace_ood_scored_total", "p-1"), IsEmpty());
  Predict(server);
  v1::ScoreRequest score;
  score.set_model("net");
  *score.mutable_inputs() = MakeTensor({3, 2}, {1, 2, 3, 4, 5, 6});
  v1::ScoreResponse scored;
  ASSERT_TRUE(Call(*server.predictions, &PredictionStub::Score, score, &scored).ok());

  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  const auto stream = server.predictions->PredictStream(&context);
  v1::PredictStreamRequest start, batch;
  start.mutable_start()->mutable_score()->set_model("net");
  *batch.mutable_inputs() = MakeTensor({1, 2}, {1, 2});
  ASSERT_TRUE(stream->Write(start));
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(stream->Write(batch));
  stream->WritesDone();
  v1::PredictStreamResponse answer;
  while (stream->Read(&answer)) {
  }
  ASSERT_TRUE(stream->Finish().ok());

  EXPECT_THAT(Values(server, "laplace_ood_scored_total", "p-1"), ElementsAre("9"));
  EXPECT_THAT(Values(server, "laplace_ood_flagged_total", "p-1"), ElementsAre("3"));
  EXPECT_THAT(Values(server, "laplace_ood_window_examples", "p-1"), ElementsAre("9"));
  EXPECT_THAT(Values(server, "laplace_ood_calibrated_rate_upper", "p-1"), ElementsAre("0.1"));
  // Bounds -1, 0 and 0.5: the scores are an example's place in its request.
  EXPECT_THAT(Values(server, "laplace_ood_score_bucket", "p-1"), ElementsAre("0", "6", "6", "9"));
}

TEST(DriftMetricsTest, RefusedAndFailedRequestsAreNot) {
  TestServer server;
  server.host->SetComputeHook([](const ComputeContext&) { return absl::InternalError("broken"); });
  v1::PredictResponse response;
  EXPECT_FALSE(
      Call(*server.predictions, &PredictionStub::Predict, GoodPredictRequest(), &response).ok());
  EXPECT_THAT(Values(server, "laplace_ood_scored_total", "p-1"), IsEmpty());
}

TEST(DriftMetricsTest, ActivatedPosteriorCountsForItself) {
  TestServer server;
  Predict(server);
  v1::ActivatePosteriorRequest activate;
  activate.set_model("net");
  activate.set_posterior_id("p-2");
  v1::ActivatePosteriorResponse activated;
  ASSERT_TRUE(
      Call(*server.posteriors, &v1::PosteriorService::Stub::ActivatePosterior, activate, &activated)
          .ok());
  Predict(server);
  Predict(server);
  EXPECT_THAT(Values(server, "laplace_ood_scored_total", "p-1"), ElementsAre("2"));
  EXPECT_THAT(Values(server, "laplace_ood_scored_total", "p-2"), ElementsAre("4"));
}

}  // namespace
}  // namespace laplaced
