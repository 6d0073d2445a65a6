// The server as a process: start, kill, restart, signals, and the command line against it.
#include "tests/support/process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "formats/npy.h"
#include "tests/integration/world.h"
#include "tests/support/http_get.h"
#include "tests/support/status_matchers.h"

namespace laplaced::integration {
namespace {

using laplace::client::PredictRequest;
using test_support::IsOk;

// A running laplaced; killed when it goes out of scope.
class ServerProcess : public test_support::Process {
 public:
  explicit ServerProcess(const std::string& root, const std::string& listen = "127.0.0.1:0",
                         const std::string& http = "127.0.0.1:0",
                         const std::vector<std::string>& more = {})
      : Process(root + "/log", Arguments(root, listen, http, more)),
        address_file_(AddressFile(root)) {}

  // The address once it is ready; fails the test when the process ends instead.
  std::string Address() {
    for (int i = 0; i < 1200; ++i) {
      if (std::ifstream file(address_file_); file) {
        std::string address;
        if (std::getline(file, address) && !address.empty()) return address;
      }
      if (Ended()) {
        ADD_FAILURE() << "the server ended: " << Log();
        return "";
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    ADD_FAILURE() << "the server was not ready in a minute: " << Log();
    return "";
  }

  // That of the HTTP port, once it is ready.
  std::string HttpAddress() const {
    const std::string log = Log(), before = "http://";
    const size_t at = log.find(before);
    EXPECT_NE(at, std::string::npos) << log;
    if (at == std::string::npos) return "";
    const size_t begin = at + before.size();
    return log.substr(begin, log.find_first_not_of("0123456789.:", begin) - begin);
  }

 private:
  static std::string AddressFile(const std::string& root) { return root + "/address"; }

  static std::vector<std::string> Arguments(const std::string& root, const std::string& listen,
                                            const std::string& http,
                                            const std::vector<std::string>& more) {
    // That of a process before this one.
    std::filesystem::remove(AddressFile(root));
    std::vector<std::string> arguments = {
        LAPLACED_SERVER_BINARY, "--registry",     root, "--listen", listen, "--http-listen", http,
        "--address-file",       AddressFile(root)};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }

  std::string address_file_;
};

class ProcessTest : public ::testing::Test {
 protected:
  laplace::client::Prediction Predict(const std::string& address) {
    PredictRequest request;
    request.model = "mlp";
    request.inputs = world_.test_inputs();
    request.return_covariance = true;
    auto answer = World::Connect(address)->Predict(request);
    EXPECT_THAT(answer, IsOk());
    return answer.ok() ? *answer : laplace::client::Prediction();
  }

  World world_;
};

TEST_F(ProcessTest, KillingItBetweenFitAndPredictChangesNoDigit) {
  laplace::client::Prediction before;
  {
    ServerProcess server(world_.root());
    const std::string address = server.Address();
    ASSERT_NE(address, "");
    world_.Fit(*World::Connect(address));
    before = Predict(address);
    server.Signal(SIGKILL);
    EXPECT_EQ(server.Wait(), -SIGKILL);
  }
  ServerProcess server(world_.root());
  const auto after = Predict(server.Address());
  EXPECT_EQ(before.posterior_id, after.posterior_id);
  EXPECT_EQ(before.mean, after.mean);
  EXPECT_EQ(before.functional_covariance, after.functional_covariance);
  EXPECT_EQ(before.epistemic, after.epistemic);
  ASSERT_EQ(before.ood_scores.size(), 1u);
  EXPECT_EQ(before.ood_scores[0].values, after.ood_scores.at(0).values);
}

TEST_F(ProcessTest, AFitCutShortByAKillIsRecordedAsFailedAndLeavesNoPosterior) {
  std::string operation;
  {
    ServerProcess server(world_.root());
    const auto client = World::Connect(server.Address());
    auto request = world_.FitRequest(*client);
    request.options.rank = 51;
    request.options.lanczos_tolerance = 1e-14;
    request.options.max_products = 1000000;
    const auto started = client->StartFit(request);
    ASSERT_THAT(started, IsOk());
    operation = started->id;
    server.Signal(SIGKILL);
    server.Wait();
  }
  ServerProcess server(world_.root());
  const auto client = World::Connect(server.Address());
  const auto record = client->GetOperation(operation);
  ASSERT_THAT(record, IsOk());
  EXPECT_EQ(record->state, laplace::client::OperationState::kFailed);
  EXPECT_EQ(record->error_code, absl::StatusCode::kAborted);
  EXPECT_TRUE(client->ListPosteriors("mlp")->empty());
}

TEST_F(ProcessTest, SigtermEndsItCleanlyAndHealthTellsBefore) {
  ServerProcess server(world_.root());
  const auto client = World::Connect(server.Address());
  const auto health = client->Health();
  ASSERT_THAT(health, IsOk());
  EXPECT_EQ(*health, laplace::client::HealthState::kServing);
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait(), 0) << server.Log();
}

TEST_F(ProcessTest, ASecondSignalEndsItAtOnce) {
  ServerProcess server(world_.root(), "127.0.0.1:0", "127.0.0.1:0",
                       {"--drain-delay-seconds", "3600"});
  const auto client = World::Connect(server.Address());
  server.Signal(SIGTERM);
  for (int i = 0; i < 1000; ++i) {
    const auto health = client->Health();
    if (health.ok() && *health == laplace::client::HealthState::kNotServing) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  const auto health = client->Health();
  ASSERT_THAT(health, IsOk());
  EXPECT_EQ(*health, laplace::client::HealthState::kNotServing);
  EXPECT_THAT(client->ListModels().status(), IsOk());  // calls are still taken
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait(), 128 + SIGTERM) << server.Log();
}

TEST_F(ProcessTest, DriftMetricsAndProbesAreServedOverHttp) {
  ServerProcess server(world_.root());
  const std::string address = server.Address();
  world_.Fit(*World::Connect(address));
  const auto prediction = Predict(address);
  ASSERT_EQ(prediction.ood_scores.size(), 1u);
  const std::string http = server.HttpAddress();
  EXPECT_EQ(test_support::HttpGet(http, "/v2/health/ready").status, 200);
  const std::string metrics = test_support::HttpGet(http, "/metrics").body;
  const size_t rows = prediction.ood_scores[0].values.size();
  for (const std::string& expected :
       {std::string("laplace_ood_score_bucket{"), std::string("model=\"mlp\""),
        "posterior=\"" + prediction.posterior_id + "\"",
        "score=\"" + prediction.ood_scores[0].name + "\"", "} " + std::to_string(rows) + "\n"}) {
    EXPECT_THAT(metrics, ::testing::HasSubstr(expected));
  }
}

// Standard error is a file here, no terminal.
TEST_F(ProcessTest, AFitCanBeFollowedInMetricsAndInAJsonLog) {
  ServerProcess server(world_.root());
  const std::string address = server.Address();
  world_.Fit(*World::Connect(address));
  const std::string metrics = test_support::HttpGet(server.HttpAddress(), "/metrics").body;
  for (const char* expected :
       {"laplaced_operations_total{kind=\"fit\",state=\"succeeded\"} 1\n",
        "laplaced_fit_seconds_count{kind=\"fit\"} 1\n", "laplaced_model_ready{model=\"mlp/1\"} 1\n",
        "grpc_server_handled_total{grpc_code=\"OK\",grpc_method="
        "\"FitPosterior\",grpc_service=\"laplace.v1.PosteriorService\","
        "grpc_type=\"unary\"} 1\n"}) {
    EXPECT_THAT(metrics, ::testing::HasSubstr(expected));
  }
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait(), 0);
  std::set<std::string> stages;
  std::string operation, ended;
  std::istringstream log(server.Log());
  for (std::string line; std::getline(log, line);) {
    const auto entry = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    ASSERT_TRUE(entry.is_object()) << line;
    for (const char* key : {"time", "severity", "message"}) EXPECT_TRUE(entry.contains(key));
    if (entry["message"] == "operation stage") {
      operation = entry["operation"];
      stages.insert(entry["stage"].get<std::string>());
    }
    if (entry["message"] == "operation succeeded") ended = entry["operation"];
  }
  EXPECT_THAT(stages, ::testing::IsSupersetOf({"directions", "curvature", "saving"}));
  EXPECT_EQ(ended, operation);
  EXPECT_NE(ended, "");
}

TEST_F(ProcessTest, ATakenPortIsAStartUpErrorThatNamesIt) {
  ServerProcess first(world_.root());
  const std::string address = first.Address();
  World other;
  ServerProcess second(other.root(), address);
  EXPECT_EQ(second.Wait(), 1);
  EXPECT_THAT(second.Log(), ::testing::HasSubstr(address));
  ServerProcess third(other.root(), "127.0.0.1:0", address);
  EXPECT_EQ(third.Wait(), 1);
  EXPECT_THAT(third.Log(), ::testing::HasSubstr("http_listen: cannot listen on '" + address));
}

// Runs the command line and returns (exit code, standard output).
std::pair<int, std::string> RunCli(const std::string& arguments) {
  const std::string command = std::string(LAPLACE_CLI_BINARY) + " " + arguments + " 2>&1";
  FILE* pipe = popen(command.c_str(), "r");
  std::string output;
  char buffer[4096];
  for (size_t n = 0; (n = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) output.append(buffer, n);
  const int status = pclose(pipe);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, output};
}

TEST_F(ProcessTest, TheCommandLineDoesTheWholeJob) {
  ServerProcess server(world_.root());
  const std::string at = "--server " + server.Address() + " ";
  const auto save = [&](const std::string& name, const Array& array) {
    const std::string path = world_.root() + "/" + name;
    EXPECT_THAT(WriteNpy(path, array), IsOk());
    return path;
  };
  const std::string x = save("x.npy", world_.train_inputs()),
                    y = save("y.npy", world_.train_targets());
  const std::string test = save("test.npy", world_.test_inputs());
  const auto expect = [](const std::pair<int, std::string>& result, const std::string& text) {
    EXPECT_EQ(result.first, 0) << result.second;
    EXPECT_THAT(result.second, ::testing::HasSubstr(text));
  };
  expect(RunCli(at + "health"), "serving");
  expect(RunCli(at + "models load mlp"), "mlp");
  expect(RunCli(at + "models ls"), "mlp");
  expect(
      RunCli(at + "fit mlp --train " + x + " --train-labels " + y + " --rank 8 --b1 100 --b2 150"),
      "p-");
  expect(RunCli(at + "posterior ls mlp"), "p-");
  expect(RunCli(at + "predict mlp --input " + test + " --limit 5"), "a");
  expect(RunCli(at + "score mlp --input " + test), "MODERATED_ENERGY");
  const auto missing = RunCli(at + "predict nope --input " + test);
  EXPECT_EQ(missing.first, 1) << missing.second;
  EXPECT_THAT(missing.second, ::testing::HasSubstr("nope"));
}

}  // namespace
}  // namespace laplaced::integration
