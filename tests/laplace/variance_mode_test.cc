#include "server/laplace/variance_mode.h"

#include <gtest/gtest.h>

namespace laplaced {
namespace {

// ResNet-20 with K = 50 and a layerwise residual, `batch` images.
VarianceProblem ResNet20(int64_t n_outputs, int64_t batch) {
  VarianceProblem problem;
  problem.batch = problem.block = batch;
  problem.n_outputs = n_outputs;
  problem.n_parameters = 270'000;
  problem.largest_parameter = 36'864;
  problem.n_tensors = 59;
  problem.last_layer_parameters = 65 * n_outputs;
  problem.gradient_numel = 380'000;
  problem.largest_gradient = 16'384;
  problem.forward_macs = 41e6;
  problem.row_macs = 50 * 270'000.0;
  problem.threads = 2;
  return problem;
}

// A network with a head of 1000 classes on 1.4 million parameters, K = 20.
VarianceProblem ThousandClasses() {
  VarianceProblem problem;
  problem.n_outputs = 1000;
  problem.n_parameters = 1'400'000;
  problem.largest_parameter = 512'000;
  problem.n_tensors = 10;
  problem.last_layer_parameters = 513'000;
  problem.gradient_numel = 20'000;
  problem.largest_gradient = 8'192;
  problem.forward_macs = 30e6;
  problem.row_macs = 20 * 1.4e6;
  problem.threads = 2;
  return problem;
}

TEST(VarianceModeTest, CountsWhatTheHeaderSays) {
  VarianceProblem problem;
  problem.batch = 3;
  problem.n_outputs = 5;
  problem.n_parameters = 100;
  problem.last_layer_parameters = 20;
  problem.forward_macs = 70;
  problem.row_macs = 400;
  const double rows = 5 * (2 * 70 + 400) + 25 * 100;
  EXPECT_DOUBLE_EQ(CostOf(VarianceMode::kExact, 0, problem).flops, 2 * 3 * (70 + rows));
  EXPECT_DOUBLE_EQ(CostOf(VarianceMode::kTopClasses, 2, problem).flops,
                   2 * 3 * (2 * 70 + 2 * (2 * 70 + 400) + 4 * 100));
  EXPECT_DOUBLE_EQ(CostOf(VarianceMode::kTopClasses, 50, problem).flops, 2 * 3 * (2 * 70 + rows))
      << "no more rows than outputs";
  EXPECT_DOUBLE_EQ(CostOf(VarianceMode::kSampled, 7, problem).flops,
                   2 * (7 * (2 * 400 + 3 * 3 * 70) + 3 * 70));
  EXPECT_DOUBLE_EQ(CostOf(VarianceMode::kLastLayer, 0, problem).flops,
                   2 * 3 * (70 + 5 * (2 * 20 + 400 * 0.2) + 25 * 20));
  problem.generic_parameters = 1;
  EXPECT_DOUBLE_EQ(CostOf(VarianceMode::kExact, 0, problem).flops, 2 * 3 * (70 + rows + 5 * 70));
  problem.precisions = 2;
  EXPECT_DOUBLE_EQ(CostOf(VarianceMode::kSampled, 7, problem).flops,
                   2 * (2 * 7 * (2 * 400 + 3 * 3 * 70) + 3 * 70));
}

TEST(VarianceModeTest, OrdinaryModelsStayExactWhateverTheBatch) {
  for (const int64_t batch : {1, 8, 64}) {
    for (const int64_t outputs : {1, 2, 10, 64}) {
      EXPECT_EQ(ChooseVarianceMode(ResNet20(outputs, batch), true), VarianceMode::kExact)
          << outputs << " " << batch;
    }
  }
}

TEST(VarianceModeTest, AThousandClassesTakeTheTopOnesOrSamples) {
  EXPECT_GT(CostOf(VarianceMode::kExact, 0, ThousandClasses()).bytes, kMostBytes);
  EXPECT_EQ(ChooseVarianceMode(ThousandClasses(), true), VarianceMode::kTopClasses);
  EXPECT_EQ(ChooseVarianceMode(ThousandClasses(), false), VarianceMode::kSampled);
  EXPECT_LT(CostOf(VarianceMode::kSampled, kDefaultSamples, ThousandClasses()).bytes, kAutoBytes);
}

TEST(VarianceModeTest, ACostOfTwiceTheSamplesIsTheBorder) {
  VarianceProblem problem = ResNet20(kDefaultSamples + 1, 8);
  const auto exact = [&] { return CostOf(VarianceMode::kExact, 0, problem).flops; };
  const auto sampled = [&] {
    return CostOf(VarianceMode::kSampled, kDefaultSamples, problem).flops;
  };
  ASSERT_LT(exact(), 2 * sampled());
  EXPECT_EQ(ChooseVarianceMode(problem, false), VarianceMode::kExact);
  while (exact() <= 2 * sampled()) problem.n_outputs += 10;
  EXPECT_EQ(ChooseVarianceMode(problem, false), VarianceMode::kSampled);
}

TEST(VarianceModeTest, MemoryDecidesEvenForFewOutputs) {
  VarianceProblem problem = ResNet20(10, 1);
  problem.largest_parameter = 100'000'000;
  EXPECT_EQ(ChooseVarianceMode(problem, true), VarianceMode::kSampled)
      << "one row of the top classes does not fit either";
}

}  // namespace
}  // namespace laplaced
