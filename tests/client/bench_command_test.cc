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
  const auto result = GenerateLoad(server.address(), {}, Request(), options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GT(result->latency.size(), 3u);
  EXPECT_EQ(result->codes.at("OK"), static_cast<int64_t>(result->latency.size()));
  EXPECT_EQ(result->offered, result->codes.at("OK"));
  EXPECT_EQ(result->overhead.size(), result->latency.size());
  EXPECT_TRUE(std::is_sorted(result->latency.begin(), result->latency.end()));
  EXPECT_GE(server.Calls("Predict"), result->offered);
}

TEST(LoadGeneratorTest, AnOpenLoopOffersItsRateWhateverTheServerDoes) {
  FakeServer server;
  server.Delay("Predict", absl::Milliseconds(100));
  LoadOptions options = Short();
  options.duration = absl::Seconds(1);
  options.rate = 400;
  const auto result = GenerateLoad(server.address(), {}, Request(), options);
  ASSERT_TRUE(result.ok()) << result.status();
  // Five standard deviations of chance.
  EXPECT_NEAR(static_cast<double>(result->offered), 400, 5 * 20);
  for (const double seconds : result->latency) EXPECT_GE(seconds, 0.1);
}

TEST(LoadGeneratorTest, CallsBeyondTheLimitAreCountedAndNotSent) {
  FakeServer server;
  server.Delay("Predict", absl::Seconds(10));
  LoadOptions options = Short();
  options.rate = 400;
  options.max_in_flight = 2;
  options.deadline = absl::Milliseconds(500);
  const auto result = GenerateLoad(server.address(), {}, Request(), options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GT(result->not_sent, 0);
  EXPECT_TRUE(result->latency.empty());
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
  const auto result = GenerateLoad(server.address(), {}, Request(), options);
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
  EXPECT_TRUE(absl::IsInvalidArgument(GenerateLoad("x:1", {}, Request(), both).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(GenerateLoad("x:1", {}, Request(), Short()).status()));
}

TEST(LoadGeneratorTest, QuantilesAreValuesThatOccurred) {
  EXPECT_EQ(Quantile({}, 0.5), 0);
  EXPECT_EQ(Quantile({1, 2, 3, 4}, 0.5), 2);
  EXPECT_EQ(Quantile({1, 2, 3, 4}, 0.51), 3);
  EXPECT_EQ(Quantile({1, 2, 3, 4}, 1), 4);
  EXPECT_EQ(Quantile({1, 2, 3, 4}, 0), 1);
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
  int64_t counted = 0;
  for (const auto& bin : run["latency_histogram"]) counted += bin["count"].get<int64_t>();
  EXPECT_EQ(counted, run["codes"]["OK"].get<int64_t>());
}

TEST_F(BenchCommandTest, AModelThatIsNotThereIsAnError) {
  const Outcome outcome = Run("bench nosuch --duration 0.1");
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("nosuch"));
}

}  // namespace
}  // namespace laplace::client
