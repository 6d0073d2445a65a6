// What a server tells about itself: metric names, call counts, request ids, the log of calls.
#include <chrono>
#include <cstring>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/observe/log.h"
#include "tests/support/event.h"
#include "tests/support/http_get.h"
#include "tests/support/test_server.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;
using test_support::Call;
using test_support::GoodPredictRequest;
using test_support::TestServer;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

using PredictionStub = v1::PredictionService::Stub;

std::string MetricsOf(const TestServer& server) {
  return test_support::HttpGet(server.server->http_address(), "/metrics").body;
}

// "type name{label,label}" of every family of a text exposition that has series, sorted.
std::string Families(const std::string& text) {
  std::map<std::string, std::string> types;
  std::map<std::string, std::set<std::string>> labels;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    if (absl::StartsWith(line, "# TYPE ")) {
      const std::vector<std::string> words = absl::StrSplit(line, ' ');
      types[words.at(2)] = words.at(3);
    }
    if (line.empty() || line[0] == '#') continue;
    const std::string name(line.substr(0, line.find_first_of("{ ")));
    std::string family = name;
    for (const char* suffix : {"_bucket", "_sum", "_count"}) {
      const std::string stem = name.substr(0, name.size() - std::strlen(suffix));
      if (absl::EndsWith(name, suffix) && types.count(stem) > 0) family = stem;
    }
    std::set<std::string>& of = labels[family];
    if (line[name.size()] != '{') continue;
    const absl::string_view inside =
        line.substr(name.size() + 1, line.rfind('}') - name.size() - 1);
    for (const absl::string_view label : absl::StrSplit(inside, ',')) {
      const std::string key(label.substr(0, label.find('=')));
      if (key != "le" && key != "quantile") of.insert(key);
    }
  }
  std::string list;
  for (const auto& [family, of] : labels) {
    absl::StrAppend(&list, types[family], " ", family, "{", absl::StrJoin(of, ","), "}\n");
  }
  return list;
}

std::string ReadGolden() {
  std::ifstream file(LAPLACED_SOURCE_DIR "/tests/app/metric_names.golden");
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// A rename breaks dashboards and alerts: it must be meant.
TEST(ObservabilityTest, MetricNamesAreThoseOfTheGoldenFile) {
  TestServer server;
  // Some series are there only while an operation runs.
  server.fits->SetWork([](OperationHandle& handle) -> absl::StatusOr<std::string> {
    while (!handle.cancelled()) std::this_thread::yield();
    return absl::CancelledError("stopped");
  });
  v1::FitPosteriorRequest fit;
  fit.set_model("net");
  fit.set_train_dataset_id("sha256-0");
  v1::FitPosteriorResponse started;
  ASSERT_TRUE(
      Call(*server.posteriors, &v1::PosteriorService::Stub::FitPosterior, fit, &started).ok());
  v1::PredictResponse response;
  v1::PredictRequest request = GoodPredictRequest();
  request.add_ood_scores("energy");
  ASSERT_TRUE(Call(*server.predictions, &PredictionStub::Predict, request, &response).ok());
  EXPECT_EQ(Families(MetricsOf(server)), ReadGolden());
}

TEST(ObservabilityTest, CallsAreCountedUnderTheUsualNames) {
  TestServer server;
  v1::PredictResponse response;
  ASSERT_TRUE(
      Call(*server.predictions, &PredictionStub::Predict, GoodPredictRequest(), &response).ok());
  v1::PredictRequest unknown = GoodPredictRequest();
  unknown.set_model("nosuch");
  for (int i = 0; i < 2; ++i) {
    EXPECT_FALSE(Call(*server.predictions, &PredictionStub::Predict, unknown, &response).ok());
  }
  const auto give_up = std::chrono::steady_clock::now() + test_support::kTestPatience;
  std::string text;
  // A call is counted after its answer is on its way.
  do {
    text = MetricsOf(server);
  } while (!absl::StrContains(text, "laplaced_calls_in_flight 0") &&
           std::chrono::steady_clock::now() < give_up);
  const std::string predict =
      "grpc_method=\"Predict\",grpc_service=\"laplace.v1.PredictionService\",grpc_type=\"unary\"}";
  EXPECT_THAT(text, HasSubstr(absl::StrCat("grpc_server_started_total{", predict, " 3\n")));
  EXPECT_THAT(text, HasSubstr(absl::StrCat("grpc_server_handled_total{grpc_code=\"OK\",", predict,
                                           " 1\n")));
  EXPECT_THAT(text, HasSubstr(absl::StrCat("grpc_server_handled_total{grpc_code=\"NotFound\",",
                                           predict, " 2\n")));
  EXPECT_THAT(text, HasSubstr(absl::StrCat("grpc_server_msg_received_total{", predict, " 3\n")));
  EXPECT_THAT(text, HasSubstr(absl::StrCat("grpc_server_msg_sent_total{", predict, " 1\n")));
  EXPECT_THAT(text,
              HasSubstr(absl::StrCat("grpc_server_handling_seconds_count{", predict, " 3\n")));
  EXPECT_THAT(text, HasSubstr("grpc_server_handled_total{grpc_code=\"OK\",grpc_method="
                              "\"FitPosterior\",grpc_service=\"laplace.v1.PosteriorService\","
                              "grpc_type=\"unary\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("grpc_type=\"bidi_stream\""));
  EXPECT_THAT(text, HasSubstr("laplaced_batch_requests_total{model=\"net/1\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("laplaced_queue_requests 0\n"));
}

std::string RequestIdOf(TestServer& server, const std::string& sent, bool good) {
  grpc::ClientContext context;
  if (!sent.empty()) context.AddMetadata("x-request-id", sent);
  v1::PredictRequest request = GoodPredictRequest();
  if (!good) request.set_model("nosuch");
  v1::PredictResponse response;
  EXPECT_EQ(server.predictions->Predict(&context, request, &response).ok(), good);
  const auto& metadata = context.GetServerInitialMetadata();
  const auto found = metadata.find("x-request-id");
  return found == metadata.end() ? "" : std::string(found->second.data(), found->second.size());
}

TEST(ObservabilityTest, EveryAnswerCarriesARequestId) {
  TestServer server;
  EXPECT_EQ(RequestIdOf(server, "order-17", true), "order-17");
  EXPECT_EQ(RequestIdOf(server, "order-18", false), "order-18");
  EXPECT_THAT(RequestIdOf(server, "", true), MatchesRegex("[0-9a-f]{32}"));
  EXPECT_THAT(RequestIdOf(server, "not fit for a log", true), MatchesRegex("[0-9a-f]{32}"));
}

TEST(ObservabilityTest, TheLogOfACallCanBeFoundAgain) {
  SetLogFormat(LogFormat::kJson);
  SetLogLevel(LogLevel::kDebug);
  ::testing::internal::CaptureStderr();
  {
    TestServer server;
    grpc::ClientContext context;
    context.AddMetadata("x-request-id", "order-19");
    context.AddMetadata("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    v1::PredictRequest request = GoodPredictRequest();
    request.set_model("no\"such\nmodel");
    v1::PredictResponse response;
    EXPECT_FALSE(server.predictions->Predict(&context, request, &response).ok());
  }
  SetLogFormat(LogFormat::kText);
  SetLogLevel(LogLevel::kInfo);
  int found = 0;
  for (const absl::string_view line :
       absl::StrSplit(::testing::internal::GetCapturedStderr(), '\n', absl::SkipEmpty())) {
    const auto entry = nlohmann::json::parse(line.begin(), line.end(), nullptr, false);
    ASSERT_FALSE(entry.is_discarded()) << line;
    if (entry.value("request_id", "") != "order-19") continue;
    ++found;
    EXPECT_EQ(entry["message"], "laplace.v1.PredictionService/Predict");
    EXPECT_EQ(entry["severity"], "DEBUG");
    EXPECT_EQ(entry["grpc_code"], "InvalidArgument");
    EXPECT_EQ(entry["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    EXPECT_GT(entry["seconds"].get<double>(), 0);
    EXPECT_THAT(entry["peer"].get<std::string>(), HasSubstr("127.0.0.1"));
  }
  EXPECT_EQ(found, 1);
}

}  // namespace
}  // namespace laplaced
