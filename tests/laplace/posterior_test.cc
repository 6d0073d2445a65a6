// Oracles 1 (linear-Gaussian regression), 2 (K = P is the dense posterior), 4 (the sampler as a
// linear map), in fp64.
#include "server/laplace/posterior.h"

#include <gtest/gtest.h>

#include <cmath>

#include "server/curvature/directional_curvature.h"
#include "server/curvature/ggn_operator.h"
#include "server/linalg/lanczos.h"
#include "tests/reference/dense.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::RandomNormal;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

at::Tensor Orthonormal(int64_t n, int64_t k, uint64_t seed) {
  return std::get<0>(at::linalg_qr(RandomNormal({n, k}, seed)));
}

LowRankPosterior Example(int64_t p, int64_t k, double residual) {
  return {Orthonormal(p, k, 1), at::arange(k, 0, -1, at::kDouble) * 0.3, residual, 50, 0.7};
}

// Full-rank posterior of a risk by the product's own pipeline pieces: Lanczos directions, measured
// curvature.
LowRankPosterior FullRankPosterior(const EmpiricalRisk& risk, double delta) {
  LanczosOptions options;
  options.rank = risk.network.n_parameters();
  options.tolerance = 1e-12;
  options.max_products = 400;
  const at::Tensor all = at::arange(risk.size(), at::kLong);
  const auto pairs = Lanczos(GgnOperator(risk, all), options);
  const auto curvature =
      MeasureCurvature(risk, FindCapturedParameters(risk.network), all, pairs->vectors);
  return {pairs->vectors.contiguous(), curvature->values, 0, risk.size(), delta};
}

class LinearGaussianTest : public ::testing::Test {
 protected:
  static constexpr int64_t kN = 20, kP = 6;
  static constexpr double kSigma = 0.8, kDelta = 0.37;

  LinearGaussianTest() {
    const at::Tensor precision =
        at::mm(x_.t(), x_) / (kSigma * kSigma) + kDelta * at::eye(kP, at::kDouble);
    covariance_ = at::inverse(precision);
    w_map_ = at::mv(covariance_, at::mv(x_.t(), y_.squeeze(1))) / (kSigma * kSigma);
    torch::jit::Module module =
        reference::MakeModule({{"w", {1, kP}}}, "  return torch.linear(x, self.w)\n", at::kDouble);
    {
      at::NoGradGuard no_grad;
      at::Tensor w = module.attr("w").toTensor();
      w.copy_(w_map_.unsqueeze(0));
    }
    risk_.emplace_back(reference::MakeRisk(reference::MakeNetwork(module, {kP}, 1),
                                           Likelihood{Likelihood::Kind::kGaussian, kSigma}, x_,
                                           y_));
  }

  const EmpiricalRisk& risk() const { return risk_[0]; }

  at::Tensor x_ = RandomNormal({kN, kP}, 1);
  at::Tensor y_ = at::mm(x_, RandomNormal({kP, 1}, 2)) + kSigma * RandomNormal({kN, 1}, 3);
  at::Tensor covariance_, w_map_;
  std::vector<EmpiricalRisk> risk_;
};

TEST_F(LinearGaussianTest, CovarianceAndPredictiveVarianceAreTheExactPosterior) {
  const LowRankPosterior posterior = FullRankPosterior(risk(), kDelta);
  ASSERT_EQ(posterior.rank(), kP);
  EXPECT_LT(Max(posterior.Covariance().Dense() - covariance_), 1e-11);
  const at::Tensor x_new = RandomNormal({5, kP}, 9);
  const auto products = ComputeJacobianProducts(
      risk().network, FindCapturedParameters(risk().network), x_new, posterior.directions);
  const at::Tensor expected = (at::mm(x_new, covariance_) * x_new).sum(1);
  EXPECT_LT(Max(posterior.FunctionalCovariance(products->t, products->g).flatten() - expected),
            1e-10);
  EXPECT_LT(Max(posterior.FunctionalVariance(products->t, products->g).flatten() - expected),
            1e-10);
  EXPECT_LT(Max(products->f.flatten() - at::mv(x_new, w_map_)), 1e-12);
}

TEST_F(LinearGaussianTest, LogMarginalLikelihoodIsTheGaussianEvidence) {
  const LowRankPosterior posterior = FullRankPosterior(risk(), kDelta);
  const double sum_loss = *risk().MeanLoss() * kN;
  const double evidence =
      posterior.LogMarginalLikelihood(sum_loss, w_map_.square().sum().item<double>());
  const at::Tensor c = kSigma * kSigma * at::eye(kN, at::kDouble) + at::mm(x_, x_.t()) / kDelta;
  const at::Tensor y = y_.squeeze(1);
  const double expected = -0.5 * (y * at::mv(at::inverse(c), y)).sum().item<double>() -
                          0.5 * at::logdet(c).item<double>() - 0.5 * kN * std::log(2 * M_PI);
  EXPECT_NEAR(evidence, expected, 1e-10 * std::abs(expected));
}

TEST_F(LinearGaussianTest, EvidenceGradientIsMacKays) {
  // d log Z / d log delta = 1/2 [gamma - delta ||theta||^2] at fixed theta (oracle 9).
  const LowRankPosterior posterior = FullRankPosterior(risk(), kDelta);
  const double norm = w_map_.square().sum().item<double>(), h = 1e-5;
  const auto evidence = [&](double log_delta) {
    return posterior.WithPriorPrecision(std::exp(log_delta)).LogMarginalLikelihood(3.0, norm);
  };
  const double numeric =
      (evidence(std::log(kDelta) + h) - evidence(std::log(kDelta) - h)) / (2 * h);
  EXPECT_NEAR(numeric, 0.5 * (posterior.EffectiveParameters() - kDelta * norm), 1e-8);
}

TEST(LowRankPosteriorTest, FullRankEqualsTheDenseLaplacePosteriorOfAClassifier) {
  const EmpiricalRisk risk =
      reference::MakeRisk(reference::TanhMlp(3, 4, 3), Likelihood{}, RandomNormal({30, 3}, 1),
                          at::arange(30, at::kLong).remainder(3));
  const double delta = 0.9;
  const LowRankPosterior low_rank = FullRankPosterior(risk, delta);
  const at::Tensor ggn = reference::Ggn(risk.network, risk.likelihood, risk.data.inputs);
  const at::Tensor precision = 30 * ggn + delta * at::eye(ggn.size(0), at::kDouble);
  const at::Tensor covariance = at::inverse(precision);

  EXPECT_LT(Max(low_rank.Precision().Dense() - precision), 1e-9);
  EXPECT_LT(Max(low_rank.Covariance().Dense() - covariance), 1e-9);
  EXPECT_NEAR(low_rank.LogDetPrecision(), at::logdet(precision).item<double>(), 1e-9);
  const at::Tensor x = RandomNormal({6, 3}, 8);
  const at::Tensor j = reference::Jacobians(risk.network, x);
  const auto products = ComputeJacobianProducts(risk.network, FindCapturedParameters(risk.network),
                                                x, low_rank.directions);
  const at::Tensor v = at::matmul(at::matmul(j, covariance), j.transpose(1, 2));
  EXPECT_LT(Max(low_rank.FunctionalCovariance(products->t, products->g) - v), 1e-9);
  EXPECT_NEAR(low_rank.EffectiveParameters(),
              ggn.size(0) - delta * covariance.trace().item<double>(), 1e-9);
}

TEST(LowRankPosteriorTest, AgreesWithItsDefinitionAtEveryRankAndResidual) {
  for (int64_t k : {0, 1, 4, 10}) {
    for (double residual : {0.0, 0.02}) {
      const LowRankPosterior posterior = Example(10, k, residual);
      const at::Tensor precision = reference::Precision(posterior);
      EXPECT_LT(Max(posterior.Precision().Dense() - precision), 1e-12);
      EXPECT_NEAR(posterior.LogDetPrecision(), at::logdet(precision).item<double>(), 1e-10);
      const at::Tensor covariance = at::inverse(precision);
      const at::Tensor j = RandomNormal({2, 3, 10}, 4);
      const at::Tensor t = at::matmul(j, posterior.directions),
                       g = at::matmul(j, j.transpose(1, 2));
      const at::Tensor v = at::matmul(at::matmul(j, covariance), j.transpose(1, 2));
      EXPECT_LT(Max(posterior.FunctionalCovariance(t, g) - v), 1e-11);
      EXPECT_LT(Max(posterior.FunctionalVariance(t, g) - v.diagonal(0, 1, 2)), 1e-11);
      EXPECT_NEAR(posterior.EffectiveParameters(),
                  10 - posterior.prior_precision * covariance.trace().item<double>(), 1e-10);
    }
  }
}

TEST(LowRankPosteriorTest, RankZeroWithoutResidualIsThePrior) {
  const LowRankPosterior prior = Example(5, 0, 0);
  const at::Tensor j = RandomNormal({1, 2, 5}, 4), g = at::matmul(j, j.transpose(1, 2));
  EXPECT_LT(Max(prior.FunctionalCovariance(at::zeros({1, 2, 0}, at::kDouble), g) - g / 0.7), 1e-13);
}

TEST(LowRankPosteriorTest, VarianceFallsWithRankAndVanishesWithAStrongPrior) {
  const at::Tensor j = RandomNormal({1, 2, 12}, 4), g = at::matmul(j, j.transpose(1, 2));
  const at::Tensor u = Orthonormal(12, 12, 1);
  double previous = g.diagonal(0, 1, 2).sum().item<double>() / 0.7 + 1;
  for (int64_t k = 0; k <= 12; ++k) {
    const at::Tensor part = u.narrow(1, 0, k);
    const LowRankPosterior posterior{part, at::ones({k}, at::kDouble), 0, 50, 0.7};
    const at::Tensor v = posterior.FunctionalVariance(at::matmul(j, part), g);
    const double now = v.sum().item<double>();
    EXPECT_LT(now, previous + 1e-12);
    EXPECT_LE(now, g.diagonal(0, 1, 2).sum().item<double>() / 0.7 + 1e-12);
    previous = now;
    EXPECT_LT(Max(posterior.WithPriorPrecision(1e12).FunctionalVariance(at::matmul(j, part), g)),
              1e-9);
  }
}

TEST(LowRankPosteriorTest, SamplerIsASquareRootOfTheCovariance) {
  for (double residual : {0.0, 0.05}) {
    const LowRankPosterior posterior = Example(8, 3, residual);
    const at::Tensor a = posterior.Deviations(at::eye(8, at::kDouble));
    EXPECT_LT(Max(at::mm(a, a.t()) - at::inverse(reference::Precision(posterior))), 1e-10);
  }
}

TEST(LowRankPosteriorTest, SamplesHaveThePosteriorsCovariance) {
  const LowRankPosterior posterior = Example(4, 2, 0.01);
  constexpr int64_t kSamples = 20000;
  const at::Tensor samples = posterior.Deviations(RandomNormal({4, kSamples}, 12));
  const at::Tensor empirical = at::mm(samples, samples.t()) / kSamples;
  const at::Tensor sigma = posterior.Covariance().Dense();
  // Var of an entry of a Wishart mean: (s_ii s_jj + s_ij^2) / n.
  const at::Tensor diagonal = sigma.diagonal();
  const at::Tensor error = ((at::outer(diagonal, diagonal) + sigma.square()) / kSamples).sqrt();
  EXPECT_LT(Max((empirical - sigma) / error), 4.5);
}

TEST(LowRankPosteriorTest, ResidualSpreadsWhatTheDirectionsLeaveOver) {
  const at::Tensor curvature = at::tensor({3.0, 1.0}, at::kDouble);
  EXPECT_DOUBLE_EQ(IsotropicResidual(6.0, curvature, 10), 0.25);
  EXPECT_DOUBLE_EQ(IsotropicResidual(3.5, curvature, 10), 0);
  EXPECT_DOUBLE_EQ(IsotropicResidual(6.0, curvature, 2), 0);
}

}  // namespace
}  // namespace laplaced
