// A network with 1000 classes and 1.4 million parameters through the served model: answers in the
// mode that AUTO takes, in bounded memory, and the same network's modes against each other.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>

#include "server/laplace/low_rank_structure.h"
#include "server/serving/torch_served_model.h"
#include "tests/reference/networks.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using reference::RandomNormal;

constexpr int64_t kClasses = 1000, kHidden = 458, kRank = 20;

// Bytes of a line of /proc/self/status such as "VmHWM:"; -1 if there is none.
int64_t StatusBytes(const std::string& name) {
  std::ifstream file("/proc/self/status");
  std::string word;
  while (file >> word) {
    int64_t kilobytes = 0;
    if (word == name && file >> kilobytes) return kilobytes * 1024;
  }
  return -1;
}

// Forgets the peak so far. False if this kernel or sandbox does not allow it.
bool ResetPeak() {
  std::ofstream file("/proc/self/clear_refs");
  file << "5" << std::flush;
  return static_cast<bool>(file);
}

Network MakeWideNetwork() {
  return reference::MakeNetwork(
      reference::MakeModule({{"w0", {32, 3, 3, 3}},
                             {"w1", {32}},
                             {"w2", {kHidden, 2048}},
                             {"w3", {kHidden}},
                             {"w4", {kClasses, kHidden}},
                             {"w5", {kClasses}}},
                            "  h = torch.relu(torch.conv2d(x, self.w0, self.w1, [1, 1], [1, 1]))\n"
                            "  h = torch.flatten(torch.max_pool2d(h, [2, 2]), 1)\n"
                            "  h = torch.relu(torch.linear(h, self.w2, self.w3))\n"
                            "  return torch.linear(h, self.w4, self.w5)\n",
                            at::kFloat, 1, 0.04),
      {3, 16, 16}, kClasses);
}

// Not by FindCapturedParameters, which compares whole Jacobians.
CapturePlan EverythingCaptured() {
  CapturePlan plan;
  plan.captured.assign(6, true);
  plan.gradient_numel = 32 * 16 * 16 + kHidden + kClasses;
  return plan;
}

class ThousandClassesTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    Network network = MakeWideNetwork();
    const int64_t p = network.n_parameters();
    LowRankCurvature curvature;
    // Nearly orthogonal, as random directions in a large space are.
    curvature.directions = RandomNormal({p, kRank}, 2, at::kFloat);
    curvature.directions.div_(curvature.directions.norm(2, {0}, true));
    curvature.curvature = at::linspace(3, 0.1, kRank, at::kDouble);
    curvature.residual_kind = ResidualKind::kLayerwise;
    curvature.residual = at::full({6}, 1e-3, at::kDouble);
    for (const Parameter& parameter : network.parameters()) {
      curvature.block_sizes.push_back(parameter.value.numel());
    }
    Manifest manifest;
    manifest.input_shape = {3, 16, 16};
    manifest.n_outputs = kClasses;
    ModelInfo info;
    info.name = "wide";
    info.n_outputs = kClasses;
    info.last_layer_parameters = {"w4", "w5"};
    Posterior value;
    value.structure = std::make_shared<const LowRankStructure>(std::move(curvature));
    value.n_data = 50000;
    value.prior_precision = 50;
    // The structure is made by hand; a record always comes with a file.
    const test_support::TempFolder folder;
    const std::string path = folder.path() + "/tensors.safetensors";
    const float nothing = 0;
    if (!WriteSafetensors(path, {{"nothing", {DType::kFloat32, {1}, &nothing}}}, {}).ok()) {
      throw std::runtime_error("cannot write " + path);
    }
    PosteriorArtifact artifact{{}, *MappedSafetensors::Open(path)};
    artifact.record.id = "p-1";
    artifact.record.default_ood_score = "laplace_entropy";
    artifact.record.ood_thresholds = {{"laplace_entropy", 1, 0.05, 100, 0, 1},
                                      {"msp", 0.5, 0.05, 100, 0, 1}};
    auto sampler = std::make_shared<const FunctionSampler>(network);
    auto posterior =
        std::make_shared<const LoadedPosterior>(LoadedPosterior{std::move(artifact),
                                                                {network, EverythingCaptured()},
                                                                manifest.likelihood,
                                                                nullptr,
                                                                value,
                                                                value.WithPriorPrecision(200),
                                                                std::move(sampler)});
    auto model = std::make_shared<const LoadedModel>(
        LoadedModel{std::move(manifest), network, EverythingCaptured(), std::move(info)});
    served_ = new TorchServedModel(std::move(model), std::move(posterior), {});
    inputs_ = new at::Tensor(RandomNormal({4, 3, 16, 16}, 3, at::kFloat));
  }
  static void TearDownTestSuite() {
    delete served_;
    delete inputs_;
  }

  static Prediction Predict(const PredictOptions& options, int64_t batch) {
    const ArrayView view{DType::kFloat32, {batch, 3, 16, 16}, inputs_->data_ptr()};
    EXPECT_TRUE(served_->Validate(view, options).ok()) << served_->Validate(view, options);
    ComputeContext context;
    auto prediction = served_->Predict(view, options, context);
    EXPECT_TRUE(prediction.ok()) << prediction.status();
    return prediction.ok() ? *std::move(prediction) : Prediction{};
  }

  static TorchServedModel* served_;
  static at::Tensor* inputs_;
};

TorchServedModel* ThousandClassesTest::served_ = nullptr;
at::Tensor* ThousandClassesTest::inputs_ = nullptr;

TEST_F(ThousandClassesTest, AutoAnswersBelowTwoGigabytes) {
  const bool measured = ResetPeak();
  // The default score needs a variance of every class, so functions are drawn.
  const Prediction sampled = Predict({}, 4);
  EXPECT_EQ(sampled.variance.mode, VarianceMode::kSampled);
  EXPECT_EQ(sampled.functional_variance.size(), 4u * kClasses);
  ASSERT_EQ(sampled.scores.size(), 1u);
  EXPECT_FALSE(sampled.scores[0].threshold.has_value()) << "calibrated in another mode";
  PredictOptions options;
  options.ood_scores = {"msp"};
  const Prediction top = Predict(options, 4);
  EXPECT_EQ(top.variance.mode, VarianceMode::kTopClasses);
  EXPECT_EQ(top.functional_variance.size(), 4u * 16);
  EXPECT_TRUE(top.scores[0].threshold.has_value());
  const int64_t peak = StatusBytes("VmHWM:");
  if (!measured || peak < 0) GTEST_SKIP() << "the peak of memory cannot be measured here";
  EXPECT_LT(peak, int64_t{2} << 30);

  // The exact variances of the top classes against those over draws: 64 values, relative standard
  // error sqrt(2 / 64), and strongly correlated within an example.
  double sum = 0;
  for (int64_t n = 0; n < 4; ++n) {
    for (int64_t i = 0; i < 16; ++i) {
      const float exact = top.functional_variance[static_cast<size_t>(n * 16 + i)];
      const int64_t output = top.variance_outputs[static_cast<size_t>(n * 16 + i)];
      const float drawn = sampled.functional_variance[static_cast<size_t>(n * kClasses + output)];
      EXPECT_NEAR(drawn / exact, 1, 5 * sampled.variance.relative_error);
      sum += drawn / exact / 64;
    }
  }
  EXPECT_NEAR(sum, 1, 0.6);  // all share the draws
}

TEST_F(ThousandClassesTest, ExactIsRefusedWithNumbersInPlaceOfRunningOutOfMemory) {
  PredictOptions options;
  options.variance_mode = VarianceMode::kExact;
  const ArrayView view{DType::kFloat32, {1, 3, 16, 16}, inputs_->data_ptr()};
  const absl::Status status = served_->Validate(view, options);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("SAMPLED"), std::string::npos) << status;
}

TEST_F(ThousandClassesTest, WarmUpTakesTheCheapMode) {
  ASSERT_TRUE(served_->WarmUp().ok());
  const int64_t peak = StatusBytes("VmHWM:");
  if (peak < 0) GTEST_SKIP() << "the peak of memory cannot be measured here";
  EXPECT_LT(peak, int64_t{2} << 30);
}

}  // namespace
}  // namespace laplaced
