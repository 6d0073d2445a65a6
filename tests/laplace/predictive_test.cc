#include "server/laplace/predictive.h"

#include <gtest/gtest.h>

#include <cmath>

#include "server/laplace/prior_precision.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::RandomNormal;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

at::Tensor RandomCovariance(int64_t b, int64_t c, double scale) {
  const at::Tensor a = RandomNormal({b, c, c}, 3);
  return at::bmm(a, a.transpose(1, 2)) * scale;
}

TEST(ProbitTest, MatchesItsFormulaAndTurnsIntoSoftmaxWithoutVariance) {
  const at::Tensor m = at::tensor({1.0, -2.0, 0.5}, at::kDouble).unsqueeze(0);
  const at::Tensor v = at::tensor({0.3, 4.0, 1.0}, at::kDouble).unsqueeze(0);
  double z[3], sum = 0;
  for (int i = 0; i < 3; ++i) {
    z[i] = std::exp(m[0][i].item<double>() / std::sqrt(1 + M_PI / 8 * v[0][i].item<double>()));
    sum += z[i];
  }
  const at::Tensor p = ProbitProbabilities(m, v);
  for (int i = 0; i < 3; ++i) EXPECT_NEAR(p[0][i].item<double>(), z[i] / sum, 1e-15);
  EXPECT_LT(Max(ProbitProbabilities(m, at::zeros_like(v)) - at::softmax(m, 1)), 1e-15);
}

TEST(SamplePredictiveTest, AgreesWithQuadratureForTwoClasses) {
  // f1 - f0 is a Gaussian; E sigmoid by the trapezoidal rule on a fine grid, far more precise than
  // the sampler.
  const at::Tensor m = at::tensor({0.4, 1.1}, at::kDouble).unsqueeze(0);
  const at::Tensor v = at::tensor({1.0, 0.2, 0.2, 0.5}, at::kDouble).view({1, 2, 2});
  const double mean = 0.7, sd = std::sqrt(1.0 + 0.5 - 0.4);
  double expected = 0, second = 0;
  for (double z = -10; z < 10; z += 1e-3) {
    const double density = std::exp(-z * z / 2) / std::sqrt(2 * M_PI) * 1e-3;
    const double s = 1 / (1 + std::exp(-(mean + sd * z)));
    expected += density * s;
    second += density * s * s;
  }
  const SampledPredictive predictive = SamplePredictive(m, v);
  const double standard_error = std::sqrt((second - expected * expected) / kMcSamples);
  EXPECT_NEAR(predictive.mean[0][1].item<double>(), expected, 4 * standard_error);
  EXPECT_NEAR(predictive.mean[0].sum().item<double>(), 1, 1e-12);
}

TEST(SamplePredictiveTest, PartsAddUpAndVanishAsTheyShould) {
  const at::Tensor m = RandomNormal({7, 4}, 1);
  const SampledPredictive spread = SamplePredictive(m, RandomCovariance(7, 4, 0.5));
  EXPECT_LT(Max(spread.aleatoric + spread.epistemic - Entropy(spread.mean)), 1e-12);
  EXPECT_GT(spread.epistemic.min().item<double>(), 0);
  EXPECT_LE(Entropy(spread.mean).max().item<double>(), std::log(4.0) + 1e-12);
  const SampledPredictive sharp = SamplePredictive(m, at::zeros({7, 4, 4}, at::kDouble));
  EXPECT_LT(Max(sharp.mean - at::softmax(m, 1)), 1e-12);
  EXPECT_LT(Max(sharp.epistemic), 1e-12);
  EXPECT_LT(Max(sharp.aleatoric - Entropy(at::softmax(m, 1))), 1e-12);
}

TEST(SamplePredictiveTest, AnExampleDoesNotDependOnItsNeighbours) {
  const at::Tensor m = RandomNormal({5, 3}, 1), v = RandomCovariance(5, 3, 1);
  const SampledPredictive together = SamplePredictive(m, v);
  for (int64_t n = 0; n < 5; ++n) {
    const SampledPredictive alone = SamplePredictive(m.narrow(0, n, 1), v.narrow(0, n, 1));
    EXPECT_LT(Max(alone.mean[0] - together.mean[n]), 1e-14);
    EXPECT_NEAR(alone.epistemic[0].item<double>(), together.epistemic[n].item<double>(), 1e-13);
  }
}

TEST(EntropyTest, CountsZeroProbabilityAsNothing) {
  EXPECT_DOUBLE_EQ(Entropy(at::tensor({1.0, 0.0}, at::kDouble)).item<double>(), 0);
  EXPECT_NEAR(Entropy(at::full({4}, 0.25, at::kDouble)).item<double>(), std::log(4.0), 1e-15);
}

class PriorSearchTest : public ::testing::Test {
 protected:
  static LinearizedData Data(const at::Tensor& targets) {
    const at::Tensor j = RandomNormal({40, 3, 6}, 2);
    return {5 * RandomNormal({40, 3}, 1), at::matmul(j, Directions()).to(at::kFloat),
            at::bmm(j, j.transpose(1, 2)), targets};
  }
  static at::Tensor Directions() { return at::eye(6, at::kDouble).narrow(1, 0, 2).contiguous(); }
  const LowRankPosterior posterior_{Directions(), at::tensor({0.2, 0.1}, at::kDouble), 0.01, 10, 1};
};

TEST_F(PriorSearchTest, NllOfACandidateIsTheMeanLogLossOfTheProbitPredictive) {
  const LinearizedData data = Data(at::arange(40, at::kLong).remainder(3));
  const at::Tensor v = posterior_.FunctionalVariance(data.t.to(at::kDouble), data.g);
  const at::Tensor p = ProbitProbabilities(data.f, v);
  const double expected = -p.gather(1, data.targets.unsqueeze(1)).log().mean().item<double>();
  EXPECT_NEAR(PredictiveNll(posterior_, Likelihood{}, data), expected, 1e-12);
}

TEST_F(PriorSearchTest, RandomLabelsAskForUncertaintyAndTheBestCandidateWins) {
  const LinearizedData data =
      Data(at::arange(40, at::kLong).remainder(3));  // has nothing to do with f
  const PriorSearch search = TunePriorPrecision(posterior_, Likelihood{}, data, 1.0);
  for (const PriorCandidate& c : search.candidates) {
    EXPECT_GE(c.validation_nll, PredictiveNll(posterior_.WithPriorPrecision(search.prior_precision),
                                              Likelihood{}, data));
  }
  EXPECT_LT(search.prior_precision, 1);
  EXPECT_EQ(search.candidates.size(), 57u);
}

TEST_F(PriorSearchTest, ConfidentAndRightPredictionsRunToTheEdgeAndSaySo) {
  LinearizedData data = Data(at::zeros({40}, at::kLong));
  data.targets = data.f.argmax(1);
  const PriorSearch search = TunePriorPrecision(posterior_, Likelihood{}, data, 1.0);
  EXPECT_EQ(search.prior_precision, search.candidates.back().prior_precision);
  EXPECT_NE(search.warning.find("edge of the grid"), std::string::npos);
}

}  // namespace
}  // namespace laplaced
