// Oracles 1 (linear-Gaussian regression), 2 (K = P is the dense posterior) and 9 (evidence), in
// fp64, through the product's own pipeline pieces.
#include "server/laplace/posterior.h"

#include <gtest/gtest.h>

#include <cmath>

#include "server/curvature/directional_curvature.h"
#include "server/curvature/ggn_operator.h"
#include "server/laplace/low_rank_structure.h"
#include "server/laplace/prior_precision.h"
#include "server/linalg/lanczos.h"
#include "tests/reference/dense.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::RandomNormal;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

// Full-rank posterior of a risk: Lanczos directions, measured curvature.
Posterior FullRankPosterior(const EmpiricalRisk& risk, double delta) {
  LanczosOptions options;
  options.rank = risk.network.n_parameters();
  options.tolerance = 1e-12;
  options.max_products = 400;
  const at::Tensor all = at::arange(risk.size(), at::kLong);
  const auto pairs = Lanczos(GgnOperator(risk, all), options);
  LowRankCurvature curvature;
  curvature.directions = pairs->vectors.contiguous();
  curvature.curvature =
      MeasureCurvature(risk, FindCapturedParameters(risk.network), all, curvature.directions)
          ->along.mean;
  for (const Parameter& p : risk.network.parameters()) {
    curvature.block_sizes.push_back(p.value.numel());
  }
  Posterior posterior;
  posterior.structure = std::make_shared<const LowRankStructure>(curvature);
  posterior.n_data = risk.size();
  posterior.prior_precision = delta;
  return posterior;
}

at::Tensor Covariance(const Posterior& posterior) {
  const at::Tensor root = posterior.Deviations(at::eye(posterior.n_parameters(), at::kDouble));
  return at::mm(root, root.t());
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
  double norm() const { return w_map_.square().sum().item<double>(); }

  // log N(y; 0, sigma^2 I + XX'/delta)
  double ExactEvidence(double sigma, double delta) const {
    const at::Tensor c = sigma * sigma * at::eye(kN, at::kDouble) + at::mm(x_, x_.t()) / delta;
    const at::Tensor y = y_.squeeze(1);
    return -0.5 * (y * at::mv(at::inverse(c), y)).sum().item<double>() -
           0.5 * at::logdet(c).item<double>() - 0.5 * kN * std::log(2 * M_PI);
  }

  at::Tensor x_ = RandomNormal({kN, kP}, 1);
  at::Tensor y_ = at::mm(x_, RandomNormal({kP, 1}, 2)) + kSigma * RandomNormal({kN, 1}, 3);
  at::Tensor covariance_, w_map_;
  std::vector<EmpiricalRisk> risk_;
};

TEST_F(LinearGaussianTest, CovarianceAndPredictiveVarianceAreTheExactPosterior) {
  const Posterior posterior = FullRankPosterior(risk(), kDelta);
  ASSERT_EQ(posterior.n_parameters(), kP);
  EXPECT_LT(Max(Covariance(posterior) - covariance_), 1e-11);
  const at::Tensor x_new = RandomNormal({5, kP}, 9);
  LinearizeRequest request;
  request.covariance_at = request.variance_at = {posterior.precisions()};
  const auto linearized = posterior.structure->Linearize(
      risk().network, FindCapturedParameters(risk().network), x_new, request);
  const at::Tensor expected = (at::mm(x_new, covariance_) * x_new).sum(1);
  EXPECT_LT(Max(linearized->covariance[0].flatten() - expected), 1e-10);
  EXPECT_LT(Max(linearized->variance[0].flatten() - expected), 1e-10);
  EXPECT_LT(Max(linearized->f.flatten() - at::mv(x_new, w_map_)), 1e-12);
}

TEST_F(LinearGaussianTest, LogMarginalLikelihoodIsTheGaussianEvidence) {
  const Posterior posterior = FullRankPosterior(risk(), kDelta);
  const double evidence =
      LogMarginalLikelihood(posterior, *risk().MeanLoss() * kN, PriorTerms{norm(), 0});
  const double expected = ExactEvidence(kSigma, kDelta);
  EXPECT_NEAR(evidence, expected, 1e-10 * std::abs(expected));
}

TEST_F(LinearGaussianTest, ATemperatureIsALikelihoodRaisedToAPower) {
  // p(y|w)^(1/T) is, up to a constant, a Gaussian with noise sigma sqrt(T).
  constexpr double kTemperature = 0.25;
  Posterior posterior = FullRankPosterior(risk(), kDelta);
  posterior.temperature = kTemperature;
  const double noise = kSigma * kSigma * kTemperature;
  const at::Tensor precision = at::mm(x_.t(), x_) / noise + kDelta * at::eye(kP, at::kDouble);
  EXPECT_LT(Max(Covariance(posterior) - at::inverse(precision)), 1e-11);
}

TEST_F(LinearGaussianTest, EvidenceGradientIsMacKays) {
  // d log Z / d log delta = 1/2 [gamma - delta ||theta||^2] at fixed theta (oracle 9).
  const Posterior posterior = FullRankPosterior(risk(), kDelta);
  const double h = 1e-5;
  const auto evidence = [&](double log_delta) {
    return LogMarginalLikelihood(posterior.WithPriorPrecision(std::exp(log_delta)), 3.0,
                                 {norm(), 0});
  };
  const double numeric =
      (evidence(std::log(kDelta) + h) - evidence(std::log(kDelta) - h)) / (2 * h);
  EXPECT_NEAR(numeric, 0.5 * (posterior.EffectiveParameters() - kDelta * norm()), 1e-8);
}

TEST_F(LinearGaussianTest, TheFixedPointIsTheMaximumOverAGridOfPrecisions) {
  const Posterior posterior = FullRankPosterior(risk(), kDelta);
  const EvidenceTerms terms{*risk().MeanLoss(), {norm(), 0}, 1, kSigma};
  const EvidenceSearch search = MaximiseEvidence(posterior, terms, true, false);
  EXPECT_EQ(search.warning, "");
  EXPECT_DOUBLE_EQ(search.sigma_noise, kSigma);
  double best = -INFINITY, best_delta = 0;
  for (double log_delta = -8; log_delta < 8; log_delta += 0.001) {
    const double value = Evidence(posterior.WithPriorPrecision(std::exp(log_delta)), terms);
    if (value > best) {
      best = value;
      best_delta = std::exp(log_delta);
    }
  }
  EXPECT_NEAR(search.prior_precision / best_delta, 1, 2e-3);
  EXPECT_GE(search.steps.back().log_marginal_likelihood, best - 1e-6);
  EXPECT_GE(search.steps.back().log_marginal_likelihood,
            search.steps.front().log_marginal_likelihood);
}

TEST_F(LinearGaussianTest, NoiseByEvidenceIsTheMaximumToo) {
  // From a wrong start: loss and curvature measured with noise 0.8.
  const Posterior posterior = FullRankPosterior(risk(), kDelta);
  const EvidenceTerms terms{*risk().MeanLoss(), {norm(), 0}, 1, kSigma};
  const EvidenceSearch search = MaximiseEvidence(posterior, terms, true, true);
  EXPECT_EQ(search.warning, "");
  // The evidence at fixed theta, written out.
  const double squares = (y_.squeeze(1) - at::mv(x_, w_map_)).square().sum().item<double>();
  const auto evidence = [&](double sigma, double delta) {
    const at::Tensor precision =
        at::mm(x_.t(), x_) / (sigma * sigma) + delta * at::eye(kP, at::kDouble);
    return -squares / (2 * sigma * sigma) - 0.5 * kN * std::log(2 * M_PI * sigma * sigma) -
           0.5 * delta * norm() + 0.5 * kP * std::log(delta) -
           0.5 * at::logdet(precision).item<double>();
  };
  const double found = evidence(search.sigma_noise, search.prior_precision);
  EXPECT_NEAR(search.steps.back().log_marginal_likelihood, found, 1e-9);
  for (const double a : {0.97, 1.0, 1.03}) {
    for (const double b : {0.9, 1.0, 1.1}) {
      EXPECT_LE(evidence(search.sigma_noise * a, search.prior_precision * b), found + 1e-7);
    }
  }
}

TEST(PosteriorTest, FullRankEqualsTheDenseLaplacePosteriorOfAClassifier) {
  const EmpiricalRisk risk =
      reference::MakeRisk(reference::TanhMlp(3, 4, 3), Likelihood{}, RandomNormal({30, 3}, 1),
                          at::arange(30, at::kLong).remainder(3));
  const double delta = 0.9;
  const Posterior low_rank = FullRankPosterior(risk, delta);
  const at::Tensor ggn = reference::Ggn(risk.network, risk.likelihood, risk.data.inputs);
  const at::Tensor precision = 30 * ggn + delta * at::eye(ggn.size(0), at::kDouble);
  const at::Tensor covariance = at::inverse(precision);

  EXPECT_LT(Max(Covariance(low_rank) - covariance), 1e-9);
  EXPECT_NEAR(low_rank.LogDetPrecision(), at::logdet(precision).item<double>(), 1e-9);
  EXPECT_NEAR(low_rank.EffectiveParameters(),
              static_cast<double>(ggn.size(0)) - delta * covariance.trace().item<double>(), 1e-9);

  // Oracle 6, the dual form: J* Sigma J*' = K** - K*X (KXX + W^-1)^-1 KX*, with W = Lambda summed
  // over the data (singular for a softmax: used as K (I + W K)^-1).
  const at::Tensor x = RandomNormal({6, 3}, 8);
  const at::Tensor js = reference::Jacobians(risk.network, x).flatten(0, 1);
  const at::Tensor jx = reference::Jacobians(risk.network, risk.data.inputs).flatten(0, 1);
  const at::Tensor lambda =
      reference::OutputHessian(risk.likelihood, risk.network.Forward(risk.data.inputs));
  std::vector<at::Tensor> blocks;
  for (int64_t n = 0; n < 30; ++n) blocks.push_back(lambda[n]);
  const at::Tensor w = at::block_diag(blocks);
  const at::Tensor kxx = at::mm(jx, jx.t()) / delta, ksx = at::mm(js, jx.t()) / delta;
  const at::Tensor inner = at::linalg_solve(at::eye(90, at::kDouble) + at::mm(w, kxx), w);
  const at::Tensor v = at::mm(js, js.t()) / delta - at::mm(ksx, at::mm(inner, ksx.t()));
  LinearizeRequest request;
  request.covariance_at = {low_rank.precisions()};
  const auto linearized =
      low_rank.structure->Linearize(risk.network, FindCapturedParameters(risk.network), x, request);
  ASSERT_TRUE(linearized.ok()) << linearized.status();
  for (int64_t n = 0; n < 6; ++n) {
    EXPECT_LT(Max(linearized->covariance[0][n] - v.narrow(0, 3 * n, 3).narrow(1, 3 * n, 3)), 1e-9);
  }
}

}  // namespace
}  // namespace laplaced
