// laplace bench and the load generator against the fake server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "client/cpp/load_generator.h"
#include "tests/client/command_fixture.h"

namespace laplace::client {
namespace {

using ::testing::HasSubstr;

PredictRequest Request() {
  PredictRequest request;
  request.model = "digits";
  request.inputs.dtype = ::laplaced::DType::kUint8;
  request.inputs.shape = {1, 2};
  request.inputs.bytes = std::string("\1\2", 2);
  return request;
}

LoadOptions Short() {
  LoadOptions options;
  options.duration = absl::Milliseconds(300);
  options.warm_up = absl::Milliseconds(50);
  return options;
}

TEST(LoadGeneratorTest, AClosedLoopKeepsItsCallsInFlight) {
  FakeServer server;
  LoadOptions options = Short();
  options.concurrency = 3;
  const auto result = GenerateLoad(server.address(), {}, {Request()}, options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GT(result->latency.count(), 3);
  EXPECT_EQ(result->codes.at("OK"), result->latency.count());
  EXPECT_EQ(result->offered, result->codes.at("OK"));
  EXPECT_EQ(result->overhead.count(), result->latency.count());
  EXPECT_GE(server.Calls("Predict"), result->offered);
}

TEST(LoadGeneratorTest, AnOpenLoopOffersItsRateWhateverTheServerDoes) {
  FakeServer server;
  server.Delay("Predict", absl::Milliseconds(100));
  LoadOptions options = Short();
  options.duration = absl::Seconds(1);
  options.rate = 400;
  const auto result = GenerateLoad(server.address(), {}, {Request()}, options);
  ASSERT_TRUE(result.ok()) << result.status();
  // Five standard deviations of chance.
  EXPECT_NEAR(static_cast<double>(result->offered), 400, 5 * 20);
  EXPECT_GE(result->latency.Quantile(0), 0.0996);
}

TEST(LoadGeneratorTest, CallsBeyondTheLimitAreCountedAndNotSent) {
  FakeServer server;
  server.Delay("Predict", absl::Seconds(10));
  LoadOptions options = Short();
  options.rate = 400;
  options.max_in_flight = 2;
  options.deadline = absl::Milliseconds(500);
  const auto result = GenerateLoad(server.address(), {}, {Request()}, options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GT(result->not_sent, 0);
  EXPECT_EQ(result->latency.count(), 0);
  int64_t outcomes = result->not_sent;
  for (const auto& [unused, count] : result->codes) outcomes += count;
  EXPECT_EQ(outcomes, result->offered);
}

TEST(LoadGeneratorTest, OutcomesAreCountedByCode) {
  FakeServer server;
  for (int i = 0; i < 1000; ++i) {
    server.FailNext("Predict", {grpc::StatusCode::RESOURCE_EXHAUSTED, "full"});
  }
  LoadOptions options = Short();
  options.warm_up = absl::ZeroDuration();
  options.rate = 200;
  const auto result = GenerateLoad(server.address(), {}, {Request()}, options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->codes.count("OK"), 0u);
  // Nothing is tried again.
  EXPECT_EQ(result->codes.at("RESOURCE_EXHAUSTED"), result->offered);
  EXPECT_GE(server.Calls("Predict"), result->offered);
}

TEST(LoadGeneratorTest, OptionsAreChecked) {
  LoadOptions both = Short();
  both.rate = 1;
  both.concurrency = 1;
  EXPECT_TRUE(absl::IsInvalidArgument(GenerateLoad("x:1", {}, {Request()}, both).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(GenerateLoad("x:1", {}, {Request()}, Short()).status()));
}

TEST(LoadGeneratorTest, EvenDistancesOfferExactlyTheRate) {
  FakeServer server;
  LoadOptions options = Short();
  options.warm_up = absl::ZeroDuration();
  options.duration = absl::Milliseconds(500);
  options.rate = 100;
  options.constant_gaps = true;
  const auto result = GenerateLoad(server.address(), {}, {Request()}, options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->offered, 49);  // at 0.01, 0.02, ... 0.49 s
}

TEST(LoadGeneratorTest, EveryCallHasTheDeadline) {
  FakeServer server;
  server.Delay("Predict", absl::Seconds(10));
  LoadOptions options = Short();
  options.warm_up = absl::ZeroDuration();
  options.rate = 100;
  options.deadline = absl::Milliseconds(100);
  const auto result = GenerateLoad(server.address(), {}, {Request()}, options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GT(result->offered, 0);
  EXPECT_EQ(result->codes.at("DEADLINE_EXCEEDED"), result->offered);
}

// Whoever is refused comes back when it was told to.
TEST(LoadGeneratorTest, AClosedLoopWaitsAfterARefusal) {
  FakeServer server;
  for (int i = 0; i < 1000; ++i) {
    server.FailNext("Predict", ErrorWithRetryDelay(grpc::StatusCode::RESOURCE_EXHAUSTED, "full",
                                                   absl::Milliseconds(200)));
  }
  LoadOptions options = Short();
  options.warm_up = absl::ZeroDuration();
  options.duration = absl::Milliseconds(500);
  options.concurrency = 2;
  const auto result = GenerateLoad(server.address(), {}, {Request()}, options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GE(result->offered, 2);
  EXPECT_LE(result->offered, 6);
  EXPECT_EQ(result->codes.at("RESOURCE_EXHAUSTED"), result->offered);
}

TEST(LoadGeneratorTest, RequestsAreSentInTurn) {
  FakeServer server;
  std::vector<PredictRequest> requests(3, Request());
  for (char i = 0; i < 3; ++i) requests[static_cast<size_t>(i)].inputs.bytes[0] = i;
  LoadOptions options = Short();
  options.warm_up = absl::ZeroDuration();
  options.concurrency = 1;
  const auto result = GenerateLoad(server.address(), {}, requests, options);
  ASSERT_TRUE(result.ok()) << result.status();
  const int64_t last = (result->offered - 1) % 3;
  EXPECT_EQ(server.LastPredict().inputs().raw_values()[0], static_cast<char>(last));
}

// Connections end with their run, on the thread that asked for it.
TEST(LoadGeneratorTest, RunsFollowEachOther) {
  FakeServer server;
  LoadOptions options = Short();
  options.duration = absl::Milliseconds(2);
  options.warm_up = absl::ZeroDuration();
  options.concurrency = 16;
  for (int i = 0; i < 50; ++i) {
    const auto result = GenerateLoad(server.address(), {}, {Request()}, options);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_GE(result->codes.at("OK"), 16);
  }
}

TEST(LoadGeneratorTest, AServerThatIsNotThereIsAnOutcome) {
  LoadOptions options = Short();
  options.warm_up = absl::ZeroDuration();
  options.rate = 100;
  const auto result = GenerateLoad("127.0.0.1:1", {}, {Request()}, options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->codes.at("UNAVAILABLE"), result->offered);
}

using BenchCommandTest = Command;

TEST_F(BenchCommandTest, PrintsATable) {
  const Outcome outcome =
      Run("bench digits --concurrency 1,2 --rate 50 --duration 0.3 --warm-up 0");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("ANSWERS/S"));
  EXPECT_THAT(outcome.out, HasSubstr("1 in flight"));
  EXPECT_THAT(outcome.out, HasSubstr("2 in flight"));
  EXPECT_THAT(outcome.out, HasSubstr("50/s"));
}

TEST_F(BenchCommandTest, PrintsJson) {
  const Outcome outcome =
      Run("--output json bench digits/3 --score --ood-score energy --duration 0.3 --rows 4");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(json["model"], "digits/3");
  EXPECT_EQ(json["method"], "score");
  const auto& run = json["runs"][0];
  EXPECT_EQ(run["concurrency"], 1);
  EXPECT_GT(run["codes"]["OK"].get<int>(), 0);
  EXPECT_DOUBLE_EQ(run["rows_per_second"].get<double>(),
                   4 * run["answers_per_second"].get<double>());
  EXPECT_LE(run["latency_seconds"]["p50"].get<double>(), run["latency_seconds"]["p99"]);
  EXPECT_LE(run["latency_seconds"]["p99"].get<double>(), run["latency_seconds"]["max"]);
  int64_t counted = 0;
  for (const auto& bin : run["latency_histogram"]) counted += bin["count"].get<int64_t>();
  EXPECT_EQ(counted, run["codes"]["OK"].get<int64_t>());
}

TEST_F(BenchCommandTest, ASweepOffersSharesOfThePeak) {
  const Outcome outcome = Run(
      "--output json bench digits --sweep --concurrency 2,4 --duration 0.2 --warm-up 0 --arrivals "
      "constant");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const auto json = nlohmann::json::parse(outcome.out);
  const auto& runs = json["runs"];
  ASSERT_EQ(runs.size(), 7u);
  EXPECT_EQ(runs[0]["concurrency"], 2);
  const double peak = std::max(runs[0]["answers_per_second"].get<double>(),
                               runs[1]["answers_per_second"].get<double>());
  const double shares[] = {0.1, 0.5, 0.9, 1.5, 5};
  for (size_t i = 2; i < 7; ++i) {
    EXPECT_EQ(runs[i]["of_peak"], shares[i - 2]);
    EXPECT_NEAR(runs[i]["rate"].get<double>(), shares[i - 2] * peak, 1e-6 * peak);
  }
  EXPECT_DOUBLE_EQ(json["overload"]["goodput_ratio"].get<double>(),
                   runs[6]["answers_per_second"].get<double>() / peak);
  EXPECT_DOUBLE_EQ(json["overload"]["p99_ratio"].get<double>(),
                   runs[6]["latency_seconds"]["p99"].get<double>() /
                       runs[2]["latency_seconds"]["p99"].get<double>());
}

TEST_F(BenchCommandTest, SendsRowsOfAFile) {
  const Outcome outcome =
      Run(absl::StrCat("bench digits --rows 4 --duration 0.1 --warm-up 0 --input ", DataFile()));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(server_.LastPredict().inputs().raw_values(), std::string("\0\5\1\6\2\xC8\1\7", 8));
  const Outcome few =
      Run(absl::StrCat("bench digits --rows 5 --duration 0.1 --input ", DataFile()));
  EXPECT_EQ(few.exit_code, 1);
  EXPECT_THAT(few.err, HasSubstr("has 4 rows"));
}

TEST_F(BenchCommandTest, ASweepHasRatesOfItsOwn) {
  const Outcome outcome = Run("bench digits --sweep --rate 3");
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("--rate"));
}

TEST_F(BenchCommandTest, AModelThatIsNotThereIsAnError) {
  const Outcome outcome = Run("bench nosuch --duration 0.1");
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("nosuch"));
}

}  // namespace
}  // namespace laplace::client
