// The Laplace bridge, mean field and the probit of the top classes: against their formulas written
// out in loops, two classes against quadrature, limits, shifts, and all links against a large Monte
// Carlo reference.
#include <gtest/gtest.h>

#include <cmath>

#include "server/laplace/predictive.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::RandomNormal;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

at::Tensor RandomCovariance(int64_t b, int64_t c, double scale) {
  const at::Tensor a = RandomNormal({b, c, c}, 3);
  return at::bmm(a, a.transpose(1, 2)) * scale;
}

at::Tensor Bridge(const at::Tensor& m, const at::Tensor& v) {
  return LaplaceBridgeProbabilities(m, v.diagonal(0, 1, 2), v.sum(2));
}

double At(const at::Tensor& t, int64_t i) { return t[i].item<double>(); }
double At(const at::Tensor& t, int64_t i, int64_t j) { return t[i][j].item<double>(); }

TEST(LaplaceBridgeTest, IsTheDirichletMeanOfTheConditionedGaussian) {
  constexpr int64_t kC = 4;
  const at::Tensor m = RandomNormal({3, kC}, 1), v = RandomCovariance(3, kC, 0.3);
  const at::Tensor p = Bridge(m, v);
  for (int64_t n = 0; n < 3; ++n) {
    // Condition on the sum of the logits being 0, as for any Gaussian.
    double row[kC], total = 0, sum = 0;
    for (int64_t k = 0; k < kC; ++k) {
      row[k] = 0;
      for (int64_t l = 0; l < kC; ++l) row[k] += At(v[n], k, l);
      total += row[k];
      sum += At(m[n], k);
    }
    double mean[kC], variance[kC], inverse = 0, alpha[kC], norm = 0;
    for (int64_t k = 0; k < kC; ++k) {
      mean[k] = At(m[n], k) - row[k] / total * (sum - 0);
      variance[k] = At(v[n], k, k) - row[k] * row[k] / total;
      inverse += std::exp(-mean[k]);
    }
    for (int64_t k = 0; k < kC; ++k) {
      alpha[k] = (1 - 2.0 / kC + std::exp(mean[k]) * inverse / (kC * kC)) / variance[k];
      norm += alpha[k];
    }
    for (int64_t k = 0; k < kC; ++k) EXPECT_NEAR(At(p[n], k), alpha[k] / norm, 1e-13);
  }
}

TEST(LaplaceBridgeTest, TwoClassesAreTheSoftmaxOfTheConditionedMean) {
  const at::Tensor m = at::tensor({1.3, -0.4}, at::kDouble).unsqueeze(0);
  // Rows that sum to the same: conditioning moves both logits alike.
  for (const double scale : {1e-12, 1.0, 50.0}) {
    const at::Tensor v = scale * at::tensor({2.0, 0.5, 0.5, 2.0}, at::kDouble).view({1, 2, 2});
    EXPECT_LT(Max(Bridge(m, v) - at::softmax(m, 1)), 1e-13) << scale;
  }
}

TEST(LaplaceBridgeTest, SurvivesExtremeNumbers) {
  const at::Tensor m = at::tensor({900.0, 0.0, -900.0}, at::kDouble).unsqueeze(0);
  const at::Tensor none = at::zeros({1, 3, 3}, at::kDouble);
  // A covariance whose rows sum to 0: the sum of the logits is known already.
  const at::Tensor centred = (at::eye(3, at::kDouble) - 1.0 / 3).unsqueeze(0);
  for (const at::Tensor& v : {none, centred, 1e6 * centred, at::eye(3, at::kDouble).unsqueeze(0)}) {
    const at::Tensor p = Bridge(m, v);
    EXPECT_TRUE(p.isfinite().all().item<bool>());
    EXPECT_NEAR(p.sum().item<double>(), 1, 1e-12);
    EXPECT_NEAR(At(p[0], 0), 1, 1e-12);
  }
  // With a shift of all logits that the condition takes off again: equal rows.
  const at::Tensor small = RandomNormal({1, 3}, 4);
  EXPECT_LT(Max(Bridge(small, centred) - Bridge(small + 5, centred)), 1e-13);
}

TEST(MeanFieldTest, IsItsFormula) {
  constexpr int64_t kC = 4;
  const at::Tensor m = RandomNormal({3, kC}, 1), v = RandomCovariance(3, kC, 0.5);
  const at::Tensor p = MeanFieldProbabilities(m, v);
  for (int64_t n = 0; n < 3; ++n) {
    double mf2[kC], norm = 0;
    for (int64_t k = 0; k < kC; ++k) {
      double sum = 1;
      for (int64_t i = 0; i < kC; ++i) {
        if (i == k) continue;
        const double spread = At(v[n], k, k) + At(v[n], i, i) - 2 * At(v[n], k, i);
        sum += std::exp(-(At(m[n], k) - At(m[n], i)) / std::sqrt(1 + M_PI / 8 * spread));
      }
      mf2[k] = 1 / sum;
      norm += mf2[k];
    }
    for (int64_t k = 0; k < kC; ++k) EXPECT_NEAR(At(p[n], k), mf2[k] / norm, 1e-14);
  }
}

TEST(MeanFieldTest, LimitsAndShifts) {
  const at::Tensor m = RandomNormal({5, 4}, 1), v = RandomCovariance(5, 4, 1);
  EXPECT_LT(Max(MeanFieldProbabilities(m, 1e-14 * v) - at::softmax(m, 1)), 1e-12);
  EXPECT_LT(Max(MeanFieldProbabilities(m + 7.5, v) - MeanFieldProbabilities(m, v)), 1e-13);
  // A random shift of all logits at once, independent of them: 3 on every entry of the covariance.
  EXPECT_LT(Max(MeanFieldProbabilities(m, v + 3) - MeanFieldProbabilities(m, v)), 1e-13);
  // The probit link has neither property beyond the limit; users should know.
  EXPECT_GT(Max(ProbitProbabilities(m + 7.5, v.diagonal(0, 1, 2)) -
                ProbitProbabilities(m, v.diagonal(0, 1, 2))),
            1e-3);
}

TEST(MeanFieldTest, TwoClassesAreTheProbitOfTheDifferenceNearTheExactIntegral) {
  for (const double spread : {0.1, 1.0, 4.0}) {
    const at::Tensor m = at::tensor({0.2, 1.1}, at::kDouble).unsqueeze(0);
    const at::Tensor v =
        spread * at::tensor({1.0, 0.3, 0.3, 0.6}, at::kDouble).view({1, 2, 2});  // Var = spread
    const double p = At(MeanFieldProbabilities(m, v)[0], 1);
    EXPECT_NEAR(p, 1 / (1 + std::exp(-0.9 / std::sqrt(1 + M_PI / 8 * spread))), 1e-14);
    // E sigmoid by the trapezoidal rule; MacKay's approximation is good to about 0.01.
    double exact = 0;
    for (double z = -10; z < 10; z += 1e-3) {
      exact += std::exp(-z * z / 2) / (1 + std::exp(-(0.9 + std::sqrt(spread) * z))) * 1e-3;
    }
    EXPECT_NEAR(p, exact / std::sqrt(2 * M_PI), 0.015) << spread;
  }
}

TEST(LinksTest, AllComeNearALargeMonteCarloReference) {
  const int64_t b = 40, c = 5, draws = 200000;
  const at::Tensor m = 1.5 * RandomNormal({b, c}, 1), v = RandomCovariance(b, c, 0.15);
  const at::Tensor root = at::linalg_cholesky(v + 1e-12 * at::eye(c, at::kDouble));
  at::Tensor sum = at::zeros({b, c}, at::kDouble), squares = at::zeros({b, c}, at::kDouble);
  for (int64_t i = 0; i < draws / 2000; ++i) {
    const at::Tensor z = RandomNormal({2000, c}, 100 + static_cast<uint64_t>(i));
    const at::Tensor p =
        at::softmax(m.unsqueeze(1) + at::matmul(z.unsqueeze(0), root.transpose(1, 2)), 2);
    sum += p.sum(1);
    squares += p.square().sum(1);
  }
  const at::Tensor truth = sum / draws;
  const at::Tensor deviation = (squares / draws - truth.square()).clamp_min(0).sqrt();
  const auto distance = [&](const at::Tensor& p) {
    return 0.5 * (p - truth).abs().sum(1).mean().item<double>();  // total variation
  };
  const double plain = distance(at::softmax(m, 1));
  // Standard error of kMcSamples (antithetic pairs can only help a monotone function).
  const at::Tensor mc = SamplePredictive(m, v).mean;
  EXPECT_LT(Max((mc - truth) / (deviation / std::sqrt(kMcSamples) + 1e-6)), 5);
  EXPECT_LT(distance(mc), 0.02);
  // The probit does better than neglecting the uncertainty, mean field, which knows the covariance,
  // better still. The bridge does worse where the variance is small, as here: predictive.h warns of
  // it.
  EXPECT_LT(distance(MeanFieldProbabilities(m, v)),
            distance(ProbitProbabilities(m, v.diagonal(0, 1, 2))));
  EXPECT_LT(distance(ProbitProbabilities(m, v.diagonal(0, 1, 2))), plain);
  EXPECT_GT(distance(Bridge(m, v)), plain);
}

class TopClassesTest : public ::testing::Test {
 protected:
  at::Tensor Outputs(int64_t r) const { return std::get<1>(m_.topk(r, 1)); }

  at::Tensor m_ = 2 * RandomNormal({30, 12}, 1);
  at::Tensor v_ = RandomNormal({30, 12}, 2).square() * 4;
};

TEST_F(TopClassesTest, TheBoundHoldsWhateverTheVariancesLeftOutAre) {
  for (const int64_t r : {1, 3, 11}) {
    const at::Tensor outputs = Outputs(r);
    const TopClassPredictive top = ProbitTopClasses(m_, outputs, v_.gather(1, outputs));
    const at::Tensor left = at::ones_like(m_).scatter_(1, outputs, 0.0);
    EXPECT_LT(Max((top.mean * left).sum(1) - top.left_out_probability), 1e-15);
    EXPECT_LT(Max(top.mean.sum(1) - 1), 1e-14);
    for (const double scale : {0.0, 0.1, 1.0, 1e3, 1e9}) {
      // The true variances of what was kept, any others for the rest.
      const at::Tensor all = at::where(left > 0, scale * v_, v_);
      const at::Tensor truth = ProbitProbabilities(m_, all);
      const at::Tensor error = std::get<0>((top.mean - truth).abs().max(1));
      EXPECT_LE((error - top.left_out_bound).max().item<double>(), 1e-14) << r << " " << scale;
      const at::Tensor mass = (truth * left).sum(1);
      EXPECT_LE((mass - top.left_out_bound).max().item<double>(), 1e-14) << r << " " << scale;
    }
    EXPECT_LT(top.left_out_bound.max().item<double>(), 1);
  }
}

TEST_F(TopClassesTest, AllOutputsAreTheProbitAndLeaveNothingOut) {
  const at::Tensor outputs = Outputs(12);
  const TopClassPredictive top = ProbitTopClasses(m_, outputs, v_.gather(1, outputs));
  EXPECT_LT(Max(top.mean - ProbitProbabilities(m_, v_)), 1e-15);
  EXPECT_EQ(Max(top.left_out_probability), 0);
  EXPECT_EQ(Max(top.left_out_bound), 0);
}

TEST_F(TopClassesTest, SamplesTreatTheRestAsKnown) {
  const at::Tensor outputs = Outputs(3);
  const at::Tensor v = RandomCovariance(30, 3, 0.5);
  const SampledPredictive some = SamplePredictive(m_, v, outputs);
  EXPECT_LT(Max(some.aleatoric + some.epistemic - Entropy(some.mean)), 1e-12);
  EXPECT_GT(some.epistemic.min().item<double>(), 0);
  // The same Gaussian as one over all outputs: every output has its own noise wherever it stands.
  const at::Tensor all = at::zeros({30, 12, 12}, at::kDouble);
  for (int64_t n = 0; n < 30; ++n) {
    for (int64_t i = 0; i < 3; ++i) {
      for (int64_t j = 0; j < 3; ++j) {
        all[n][outputs[n][i].item<int64_t>()][outputs[n][j].item<int64_t>()] = v[n][i][j];
      }
    }
  }
  const SampledPredictive dense = SamplePredictive(m_, all);
  EXPECT_LT(Max(some.mean - dense.mean), 1e-7);
  EXPECT_LT(Max(some.epistemic - dense.epistemic), 1e-7);
}

}  // namespace
}  // namespace laplaced
