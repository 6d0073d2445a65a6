#include "server/laplace/prior_precision.h"

#include <gtest/gtest.h>

#include <cmath>

#include "server/laplace/predictive.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::RandomNormal;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

TEST(PredictiveLossTest, IsTheLogLossOfThePredictiveOfEachLikelihood) {
  const at::Tensor f = 3 * RandomNormal({20, 3}, 1), v = RandomNormal({20, 3}, 2).square();
  const at::Tensor labels = at::arange(20, at::kLong).remainder(3);
  EXPECT_LT(Max(PredictiveLoss(Likelihood{}, f, v, labels) +
                ProbitProbabilities(f, v).gather(1, labels.unsqueeze(1)).log().squeeze(1)),
            1e-12);
  const at::Tensor y = (RandomNormal({20, 3}, 3) > 0).to(at::kDouble);
  const at::Tensor p = BernoulliProbit(f, v);
  EXPECT_LT(Max(PredictiveLoss(Likelihood{Likelihood::Kind::kBernoulli, 1}, f, v, y) +
                (y * p.log() + (1 - y) * (1 - p).log()).sum(1)),
            1e-11);
  const at::Tensor total = v + 0.25, targets = RandomNormal({20, 3}, 4);
  EXPECT_LT(Max(PredictiveLoss(Likelihood{Likelihood::Kind::kGaussian, 0.5}, f, v, targets) +
                (-(f - targets).square() / (2 * total) - 0.5 * (2 * M_PI * total).log()).sum(1)),
            1e-12);
}

TEST(PriorGridTest, HasSevenCandidatesPerDecadeAroundItsCenter) {
  const std::vector<double> grid = PriorGrid(20);
  EXPECT_EQ(grid.size(), 57u);
  EXPECT_NEAR(grid.front(), 20e-3, 1e-12);
  EXPECT_NEAR(grid[21], 20, 1e-10);
  EXPECT_NEAR(grid.back(), 20e5, 1e-5);
}

TEST(BestByValidationTest, TakesTheLeastAndWarnsAtAnEdge) {
  std::string warning;
  std::vector<PriorCandidate> candidates = {{1, 0.5, 0}, {2, 0.3, 0}, {3, 0.4, 0}};
  EXPECT_EQ(BestByValidation(candidates, &warning), 1u);
  EXPECT_EQ(warning, "");
  candidates[2].validation_nll = 0.1;
  EXPECT_EQ(BestByValidation(candidates, &warning), 2u);
  EXPECT_NE(warning.find("edge of the grid"), std::string::npos);
}

}  // namespace
}  // namespace laplaced
