// A network with 1000 classes and 1.4 million parameters through the served model: answers in the
// mode that AUTO takes, in bounded memory, and the same network's modes against each other.
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "tests/serving/served_network.h"

namespace laplaced {
namespace {

using reference::RandomNormal;
using test_support::ResetPeak;
using test_support::StatusBytes;

constexpr int64_t kClasses = 1000, kHidden = 458, kRank = 20;

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

class ThousandClassesTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    served_ = test_support::Serve(MakeWideNetwork(), {"w4", "w5"}, kRank).release();
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
  EXPECT_EQ(sampled.scores[0].calibration, nullptr) << "calibrated in another mode";
  PredictOptions options;
  options.ood_scores = {"msp"};
  const Prediction top = Predict(options, 4);
  EXPECT_EQ(top.variance.mode, VarianceMode::kTopClasses);
  EXPECT_EQ(top.functional_variance.size(), 4u * 16);
  EXPECT_NE(top.scores[0].calibration, nullptr);
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
