// A client of the Open Inference Protocol in Python, with stubs of its own, against the real
// server: the numbers are those of the real client.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "formats/npy.h"
#include "tests/integration/world.h"
#include "tests/support/python.h"
#include "tests/support/status_matchers.h"

namespace laplaced::integration {
namespace {

using test_support::IsOk;
using test_support::ShellQuoted;
using ::testing::HasSubstr;

std::vector<double> Flat(const nlohmann::json& value) {
  if (!value.is_array()) return {value.get<double>()};
  std::vector<double> flat;
  for (const auto& part : value) {
    const std::vector<double> more = Flat(part);
    flat.insert(flat.end(), more.begin(), more.end());
  }
  return flat;
}

template <typename T>
void ExpectSame(const nlohmann::json& got, const std::vector<T>& expected) {
  const std::vector<double> flat = Flat(got);
  ASSERT_EQ(flat.size(), expected.size());
  for (size_t i = 0; i < flat.size(); ++i) {
    const double e = static_cast<double>(expected[i]);
    EXPECT_NEAR(flat[i], e, 1e-6 * std::max(1.0, std::abs(e))) << i;
  }
}

TEST(OpenInferenceProtocolTest, AStockClientGetsTheSameNumbers) {
  const std::string python = test_support::FindPython("grpc, google.protobuf, numpy");
  if (python.empty()) GTEST_SKIP() << "needs python3-grpcio, python3-protobuf and python3-numpy";
  World world;
  world.Start();
  const auto client = world.Connect();
  world.Fit(*client);
  laplace::client::PredictRequest request;
  request.model = "mlp";
  request.inputs = world.test_inputs();
  const auto expected = client->Predict(request);
  ASSERT_THAT(expected, IsOk());
  request.link_approx = laplace::client::LinkApprox::kMonteCarlo;
  const auto mc = client->Predict(request);
  ASSERT_THAT(mc, IsOk());
  laplace::client::ScoreRequest score_request;
  score_request.model = "mlp";
  score_request.inputs = world.test_inputs();
  score_request.ood_scores = {"energy"};
  const auto energy = client->Score(score_request);
  ASSERT_THAT(energy, IsOk());

  const test_support::TempFolder folder;
  const std::string proto = LAPLACED_SOURCE_DIR "/proto/inference";
  const std::string stubs = "protoc --proto_path=" + ShellQuoted(proto) +
                            " --python_out=" + ShellQuoted(folder.path()) +
                            " --grpc_out=" + ShellQuoted(folder.path()) +
                            " --plugin=protoc-gen-grpc=\"$(command -v grpc_python_plugin)\" "
                            "grpc_predict_v2.proto";
  ASSERT_EQ(std::system(stubs.c_str()), 0);
  const std::string inputs = folder.path() + "/x.npy";
  ASSERT_THAT(WriteNpy(inputs, world.test_inputs()), IsOk());
  std::ifstream file(LAPLACED_SOURCE_DIR "/tests/integration/oip_client.py");
  std::ostringstream program;
  program << file.rdbuf();
  const auto run = test_support::RunPython(python, program.str(),
                                           {folder.path(), world.address(), "mlp", inputs});
  ASSERT_EQ(run.exit_status, 0) << run.output;
  const auto said = nlohmann::json::parse(run.output);

  EXPECT_EQ(said["inputs"].dump(), R"([["inputs","FP32",[-1,4]]])");
  EXPECT_EQ(said["outputs"][0].dump(), R"(["mean","FP32",[-1,3]])");
  for (const char* way : {"raw", "typed"}) {
    SCOPED_TRACE(way);
    const auto& got = said[way];
    EXPECT_EQ(got["mean"].size(), 40u);
    ExpectSame(got["mean"], expected->mean);
    ExpectSame(got["variance"], expected->functional_variance);
    ExpectSame(got["epistemic"], expected->epistemic);
    ExpectSame(got["aleatoric"], expected->aleatoric);
    ExpectSame(got["instance_score"], expected->ood_scores.at(0).values);
    for (size_t i = 0; i < 40; ++i) {
      EXPECT_EQ(got["is_outlier"][i].get<bool>(), expected->ood_scores[0].is_ood[i]);
    }
  }
  ExpectSame(said["mc"]["mean"], mc->mean);
  EXPECT_EQ(said["scores"].size(), 1u);
  ExpectSame(said["scores"]["instance_score"], energy->ood_scores.at(0).values);
  EXPECT_EQ(said["refused"][0], "INVALID_ARGUMENT");
  EXPECT_THAT(said["refused"][1].get<std::string>(), HasSubstr("inputs[0].shape"));
}

}  // namespace
}  // namespace laplaced::integration
