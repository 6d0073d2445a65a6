// A client of the Open Inference Protocol in Python, with stubs of its own, against the real
// server: the numbers are those of the real client.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
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

// As many pixels as `like` has numbers.
Array Pixels(const Array& like) {
  Array pixels{DType::kUint8, like.shape, ""};
  for (size_t i = 0; i < like.bytes.size() / sizeof(float); ++i) {
    pixels.bytes.push_back(static_cast<char>(37 * i % 256));
  }
  return pixels;
}

// The world's network again, as a model that takes raw pixels too.
void AddPixelModel(const World& world) {
  const std::string folder = world.root() + "/models/pixels/1";
  std::filesystem::create_directories(folder);
  std::filesystem::copy(world.ModelFolder() + "/model.pt", folder + "/model.pt");
  std::ofstream(folder + "/model.json") << R"({"likelihood": "categorical",
    "input": {"shape": [4], "uint8_scale": 0.00392156862745098},
    "n_outputs": 3, "n_data": 300, "weight_decay": 0.01})";
}

// Stubs of the protocol for Python, in `folder`.
void MakeStubs(const std::string& folder) {
  const std::string proto = LAPLACED_SOURCE_DIR "/proto/inference";
  const std::string command = "protoc --proto_path=" + ShellQuoted(proto) +
                              " --python_out=" + ShellQuoted(folder) +
                              " --grpc_out=" + ShellQuoted(folder) +
                              " --plugin=protoc-gen-grpc=\"$(command -v grpc_python_plugin)\" "
                              "grpc_predict_v2.proto";
  ASSERT_EQ(std::system(command.c_str()), 0);
}

// Everything that an answer to a request without options has.
void ExpectSameAnswer(const nlohmann::json& got, const laplace::client::Prediction& expected) {
  ExpectSame(got["mean"], expected.mean);
  ExpectSame(got["variance"], expected.functional_variance);
  ExpectSame(got["epistemic"], expected.epistemic);
  ExpectSame(got["aleatoric"], expected.aleatoric);
  ExpectSame(got["instance_score"], expected.ood_scores.at(0).values);
  ASSERT_EQ(got["is_outlier"].size(), expected.ood_scores[0].is_ood.size());
  for (size_t i = 0; i < got["is_outlier"].size(); ++i) {
    EXPECT_EQ(got["is_outlier"][i].get<bool>(), expected.ood_scores[0].is_ood[i]) << i;
  }
}

TEST(OpenInferenceProtocolTest, AStockClientGetsTheSameNumbers) {
  const std::string python = test_support::FindPython("grpc, google.protobuf, numpy");
  if (python.empty()) GTEST_SKIP() << "needs python3-grpcio, python3-protobuf and python3-numpy";
  World world;
  AddPixelModel(world);
  world.Start();
  const auto client = world.Connect();
  world.Fit(*client);
  auto fit = world.FitRequest(*client);
  fit.model = "pixels";
  ASSERT_THAT(client->Fit(fit), IsOk());
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

  const auto predict = [&](const std::string& model, const Array& inputs) {
    laplace::client::PredictRequest plain;
    plain.model = model;
    plain.inputs = inputs;
    return client->Predict(plain);
  };
  const Array pixels = Pixels(world.test_inputs());
  const auto of_pixels = predict("pixels", pixels);
  ASSERT_THAT(of_pixels, IsOk());
  request.link_approx = laplace::client::LinkApprox::kProbit;
  request.variance_mode = laplace::client::VarianceMode::kTopClasses;
  request.top_classes = 2;
  const auto top = client->Predict(request);
  ASSERT_THAT(top, IsOk());

  const test_support::TempFolder folder;
  MakeStubs(folder.path());
  const std::string inputs = folder.path() + "/x.npy", pixel_file = folder.path() + "/pixels.npy";
  ASSERT_THAT(WriteNpy(inputs, world.test_inputs()), IsOk());
  ASSERT_THAT(WriteNpy(pixel_file, pixels), IsOk());
  std::ifstream file(LAPLACED_SOURCE_DIR "/tests/integration/oip_client.py");
  std::ostringstream program;
  program << file.rdbuf();
  const auto run = test_support::RunPython(
      python, program.str(), {folder.path(), world.address(), "mlp", inputs, "pixels", pixel_file});
  ASSERT_EQ(run.exit_status, 0) << run.output;
  const auto said = nlohmann::json::parse(run.output);

  EXPECT_EQ(said["inputs"].dump(), R"([["inputs","FP32",[-1,4]]])");
  EXPECT_EQ(said["outputs"][0].dump(), R"(["mean","FP32",[-1,3]])");
  for (const char* way : {"raw", "typed"}) {
    SCOPED_TRACE(way);
    EXPECT_EQ(said[way]["mean"].size(), 40u);
    ExpectSameAnswer(said[way], *expected);
  }
  EXPECT_EQ(said["pixel_inputs"].dump(), R"([["inputs","UINT8",[-1,4]]])");
  for (const char* way : {"raw_pixels", "typed_pixels"}) {
    SCOPED_TRACE(way);
    ExpectSameAnswer(said[way], *of_pixels);
  }
  ExpectSame(said["top_classes"]["variance"], top->functional_variance);
  EXPECT_EQ(said["top_classes"]["variance"][0].size(), 2u);
  ExpectSame(said["top_classes"]["variance_outputs"], top->variance_outputs);
  ExpectSame(said["mc"]["mean"], mc->mean);
  EXPECT_EQ(said["scores"].size(), 1u);
  ExpectSame(said["scores"]["instance_score"], energy->ood_scores.at(0).values);
  EXPECT_EQ(said["refused"][0], "INVALID_ARGUMENT");
  EXPECT_THAT(said["refused"][1].get<std::string>(), HasSubstr("inputs[0].shape"));
}

}  // namespace
}  // namespace laplaced::integration
