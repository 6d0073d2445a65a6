#include "server/laplace/predictive.h"

#include <gtest/gtest.h>

#include <cmath>

#include "server/model/likelihood.h"
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

// E g(m + sd z) for z ~ N(0, 1) by the trapezoidal rule on a grid that resolves both the Gaussian
// and the sigmoid.
template <typename Function>
double FineGrid(double m, double sd, Function g) {
  const double step = std::min(2e-3, 0.05 / std::max(sd, 1e-3));
  double sum = 0;
  for (double z = -9; z <= 9; z += step) sum += std::exp(-z * z / 2) * g(m + sd * z);
  return sum * step / std::sqrt(2 * M_PI);
}

double Sigmoid(double f) { return 1 / (1 + std::exp(-f)); }

double BinaryEntropyOf(double p) {
  return p <= 0 || p >= 1 ? 0 : -p * std::log(p) - (1 - p) * std::log1p(-p);
}

TEST(BernoulliPredictiveTest, AgreesWithAFineGridWhateverTheVariance) {
  for (double sd : {0.0, 0.01, 0.3, 0.999, 1.001, 2.0, 10.0, 40.0}) {
    for (double mean : {-30.0, -2.5, 0.0, 0.4, 7.0}) {
      const at::Tensor m = at::full({1, 1}, mean, at::kDouble);
      const BernoulliPredictive p = IntegrateBernoulli(m, at::full_like(m, sd * sd));
      const double expected = FineGrid(mean, sd, Sigmoid);
      const double aleatoric =
          FineGrid(mean, sd, [](double f) { return BinaryEntropyOf(Sigmoid(f)); });
      EXPECT_NEAR(p.mean.item<double>(), expected, 1e-10) << mean << " " << sd;
      EXPECT_NEAR(p.aleatoric.item<double>(), aleatoric, 1e-10) << mean << " " << sd;
      EXPECT_NEAR(p.epistemic.item<double>(), BinaryEntropyOf(expected) - aleatoric, 1e-9)
          << mean << " " << sd;
    }
  }
}

TEST(BernoulliPredictiveTest, WithoutVarianceItIsThePlainNetwork) {
  const at::Tensor m = 3 * RandomNormal({5, 3}, 1);
  const at::Tensor p = at::sigmoid(m);
  for (double v : {0.0, 1e-14, -1e-18}) {  // rounding may leave a variance below zero
    const BernoulliPredictive predictive = IntegrateBernoulli(m, at::full_like(m, v));
    EXPECT_LT(Max(predictive.mean - p), 1e-13);
    EXPECT_LT(Max(predictive.aleatoric - BinaryEntropy(p)), 1e-13);
    EXPECT_LT(Max(predictive.epistemic), 1e-13);
  }
  EXPECT_LT(Max(BernoulliProbit(m, at::zeros_like(m)) - p), 1e-15);
}

TEST(BernoulliPredictiveTest, PartsAddUpAndAreSymmetric) {
  const at::Tensor m = 4 * RandomNormal({50, 3}, 1), v = 30 * RandomNormal({50, 3}, 2).square();
  const BernoulliPredictive p = IntegrateBernoulli(m, v), mirrored = IntegrateBernoulli(-m, v);
  EXPECT_EQ(p.mean.sizes(), m.sizes());
  EXPECT_GT(p.epistemic.min().item<double>(), 0);
  EXPECT_LT(Max(p.aleatoric + p.epistemic - BinaryEntropy(p.mean)), 1e-14);
  EXPECT_LT(Max(p.mean + mirrored.mean - 1), 1e-10);
  EXPECT_LT(Max(p.epistemic - mirrored.epistemic), 1e-9);
}

TEST(BernoulliPredictiveTest, AnElementDoesNotDependOnItsNeighbours) {
  const at::Tensor m = 4 * RandomNormal({5, 3}, 1), v = 4 * RandomNormal({5, 3}, 2).square();
  const BernoulliPredictive together = IntegrateBernoulli(m, v);
  for (int64_t n = 0; n < 5; ++n) {
    const BernoulliPredictive alone = IntegrateBernoulli(m.narrow(0, n, 1), v.narrow(0, n, 1));
    EXPECT_LT(Max(alone.mean[0] - together.mean[n]), 1e-15);
    EXPECT_LT(Max(alone.epistemic[0] - together.epistemic[n]), 1e-14);
  }
}

// Oracle 10: one label is two classes with logits (0, f).
TEST(BernoulliPredictiveTest, IsTheSoftmaxOfTwoClasses) {
  const at::Tensor f = 2 * RandomNormal({40, 1}, 1), variance = RandomNormal({40, 1}, 2).square();
  const auto two = [](const at::Tensor& t) { return at::cat({at::zeros_like(t), t}, 1); };
  EXPECT_LT(Max(BernoulliProbit(f, variance) -
                ProbitProbabilities(two(f), two(variance)).narrow(1, 1, 1)),
            1e-15);
  const BernoulliPredictive one = IntegrateBernoulli(f, variance);
  const SampledPredictive sampled = SamplePredictive(two(f), at::diag_embed(two(variance)));
  // sigmoid lies in (0, 1), H_b in (0, log 2): their standard deviations are at most half of that.
  const double root = std::sqrt(static_cast<double>(kMcSamples));
  EXPECT_LT(Max(one.mean - sampled.mean.narrow(1, 1, 1)), 4 * 0.5 / root);
  EXPECT_LT(Max(one.aleatoric.squeeze(1) - sampled.aleatoric), 4 * 0.5 * std::log(2) / root);

  const Likelihood bernoulli{Likelihood::Kind::kBernoulli}, categorical;
  const at::Tensor labels = at::arange(40, at::kLong).remainder(2);
  EXPECT_LT(Max(bernoulli.Loss(f, labels.to(at::kDouble).unsqueeze(1)) -
                categorical.Loss(two(f), labels)),
            1e-14);
  EXPECT_LT(Max(bernoulli.Hessian(f).select(1, 0) -
                categorical.Hessian(two(f)).select(1, 1).narrow(1, 1, 1)),
            1e-15);
}

}  // namespace
}  // namespace laplaced
