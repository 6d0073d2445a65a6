// Operations, models and the program itself on /metrics.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/event.h"
#include "tests/support/http_get.h"
#include "tests/support/test_server.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;
using test_support::Call;
using test_support::Event;
using test_support::TestServer;
using ::testing::HasSubstr;
using ::testing::Not;

std::string MetricsOf(const TestServer& server) {
  return test_support::HttpGet(server.server->http_address(), "/metrics").body;
}

std::string StartFit(TestServer& server) {
  v1::FitPosteriorRequest request;
  request.set_model("net");
  request.set_train_dataset_id("sha256-0");
  v1::FitPosteriorResponse response;
  EXPECT_TRUE(
      Call(*server.posteriors, &v1::PosteriorService::Stub::FitPosterior, request, &response).ok());
  return response.operation().id();
}

v1::Operation WaitForEnd(TestServer& server, const std::string& id) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + test_support::kTestPatience);
  v1::WatchOperationRequest request;
  request.set_id(id);
  const auto stream = server.operations->WatchOperation(&context, request);
  v1::WatchOperationResponse last;
  while (stream->Read(&last)) {
  }
  EXPECT_TRUE(stream->Finish().ok());
  return last.operation();
}

std::string EndedLine(const std::string& state, int count) {
  return absl::StrCat("laplaced_operations_total{kind=\"fit\",state=\"", state, "\"} ", count,
                      "\n");
}

TEST(ServerMetricsTest, AFitIsSeenWhileItRunsAndCountedWhenItEnds) {
  TestServer server;
  Event reported, go;
  server.fits->SetWork([&](OperationHandle& handle) -> absl::StatusOr<std::string> {
    handle.Report("curvature", 1, 4, 0.25);
    reported.Set();
    EXPECT_TRUE(go.Wait());
    return std::string("p-2");
  });
  EXPECT_THAT(MetricsOf(server), HasSubstr("laplaced_operations_running 0\n"));
  const std::string id = StartFit(server);
  ASSERT_TRUE(reported.Wait());
  std::string text = MetricsOf(server);
  EXPECT_THAT(text, HasSubstr("laplaced_operations_running 1\n"));
  EXPECT_THAT(text, HasSubstr(absl::StrCat("laplaced_fit_progress_ratio{kind=\"fit\",operation=\"",
                                           id, "\"} 0.25\n")));
  EXPECT_THAT(text, HasSubstr(EndedLine("succeeded", 0)));
  go.Set();
  EXPECT_EQ(WaitForEnd(server, id).state(), v1::OPERATION_STATE_SUCCEEDED);
  text = MetricsOf(server);
  EXPECT_THAT(text, HasSubstr("laplaced_operations_running 0\n"));
  EXPECT_THAT(text, Not(HasSubstr("laplaced_fit_progress_ratio")));
  EXPECT_THAT(text, HasSubstr(EndedLine("succeeded", 1)));
  EXPECT_THAT(text, HasSubstr("laplaced_fit_seconds_count{kind=\"fit\"} 1\n"));
}

TEST(ServerMetricsTest, FailuresAndCancellationsAreCountedApartAndTakeNoTime) {
  TestServer server;
  server.fits->SetWork([](OperationHandle&) -> absl::StatusOr<std::string> {
    return absl::FailedPreconditionError("curvature is not finite");
  });
  EXPECT_EQ(WaitForEnd(server, StartFit(server)).state(), v1::OPERATION_STATE_FAILED);
  server.fits->SetWork([](OperationHandle&) -> absl::StatusOr<std::string> {
    return absl::CancelledError("stopped");
  });
  EXPECT_EQ(WaitForEnd(server, StartFit(server)).state(), v1::OPERATION_STATE_CANCELLED);
  const std::string text = MetricsOf(server);
  EXPECT_THAT(text, HasSubstr(EndedLine("failed", 1)));
  EXPECT_THAT(text, HasSubstr(EndedLine("cancelled", 1)));
  EXPECT_THAT(text, HasSubstr(EndedLine("succeeded", 0)));
  EXPECT_THAT(text, HasSubstr("laplaced_fit_seconds_count{kind=\"fit\"} 0\n"));
}

TEST(ServerMetricsTest, StagesAndEndsAreLoggedWithTheOperation) {
  ::testing::internal::CaptureStderr();
  std::string id;
  {
    TestServer server;
    server.fits->SetWork([](OperationHandle& handle) -> absl::StatusOr<std::string> {
      for (int i = 1; i <= 3; ++i) handle.Report("curvature", i, 3, i / 4.0);
      return absl::InternalError("no \"memory\"");
    });
    id = StartFit(server);
    WaitForEnd(server, id);
  }
  const std::string log = ::testing::internal::GetCapturedStderr();
  const std::string stage =
      absl::StrCat(" info operation stage operation=", id, " stage=curvature progress=0.25\n");
  const size_t first = log.find(stage);
  ASSERT_NE(first, std::string::npos) << log;
  EXPECT_EQ(log.find("operation stage", first + stage.size()), std::string::npos) << log;
  EXPECT_THAT(log, HasSubstr(absl::StrCat(" warning operation failed operation=", id,
                                          " description=\"fit net/1\" seconds=")));
  EXPECT_THAT(log, HasSubstr(" error=\"no \\\"memory\\\"\"\n"));
}

TEST(ServerMetricsTest, ModelsAreReadyWhileTheyAreServed) {
  TestServer server;
  EXPECT_THAT(MetricsOf(server), HasSubstr("laplaced_model_ready{model=\"net/1\"} 1\n"));
  ASSERT_TRUE(server.host->Unload("net", 0).ok());
  const std::string text = MetricsOf(server);
  EXPECT_THAT(text, Not(HasSubstr("laplaced_model_ready{model=\"net/1\"}")));
  EXPECT_THAT(text, HasSubstr("laplaced_model_ready{model=\"bare/1\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("laplaced_build_info{version=\""));
  server.host->AddWithoutUsablePosterior("other", 1);
  EXPECT_THAT(MetricsOf(server), HasSubstr("laplaced_model_ready{model=\"other/1\"} 0\n"));
  // Nobody's disk is needed to say so.
  server.host->SetListStatus(absl::UnavailableError("the disk does not answer"));
  EXPECT_THAT(MetricsOf(server), HasSubstr("laplaced_model_ready{model=\"bare/1\"} 1\n"));
}

// Prometheus's own tool finds nothing to say about names, types and help texts.
TEST(ServerMetricsTest, PromtoolAcceptsEverything) {
  if (std::system("command -v promtool >/dev/null") != 0) {
    GTEST_SKIP()
        << "promtool is not installed (apt-get install --no-install-recommends prometheus)";
  }
  TestServer server;
  Event reported, go;
  server.fits->SetWork([&](OperationHandle& handle) -> absl::StatusOr<std::string> {
    handle.Report("curvature", 1, 4, 0.25);
    reported.Set();
    EXPECT_TRUE(go.Wait());
    return std::string("p-2");
  });
  StartFit(server);
  ASSERT_TRUE(reported.Wait());
  v1::PredictRequest request = test_support::GoodPredictRequest();
  request.add_ood_scores("energy");
  v1::PredictResponse response;
  ASSERT_TRUE(
      Call(*server.predictions, &v1::PredictionService::Stub::Predict, request, &response).ok());
  const std::string text = MetricsOf(server);
  go.Set();
  ASSERT_THAT(text, HasSubstr("laplaced_fit_progress_ratio"));
  FILE* promtool = popen("promtool check metrics", "w");
  ASSERT_NE(promtool, nullptr);
  EXPECT_EQ(std::fwrite(text.data(), 1, text.size(), promtool), text.size());
  EXPECT_EQ(pclose(promtool), 0) << text;
}

}  // namespace
}  // namespace laplaced
