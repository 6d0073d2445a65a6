#include "server/curvature/output_factor.h"

#include <gtest/gtest.h>

#include <cmath>

#include "server/curvature/curvature_operator.h"
#include "tests/reference/dense.h"
#include "tests/reference/networks.h"
#include "tests/reference/risks.h"

namespace laplaced {
namespace {

using reference::AllRows;
using reference::RandomNormal;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

const Likelihood kCategorical{};
const Likelihood kGaussian{Likelihood::Kind::kGaussian, 0.6};
const Likelihood kBernoulli{Likelihood::Kind::kBernoulli};

at::Tensor Square(const at::Tensor& factor) { return at::bmm(factor, factor.transpose(1, 2)); }

CurvatureSpec MonteCarlo(int64_t samples, uint64_t seed) {
  return {CurvatureKind::kMcFisher, samples, seed};
}

TEST(OutputFactorTest, ColumnsAreCounted) {
  EXPECT_EQ(CurvatureSpec{}.Columns(10), 10);
  EXPECT_EQ(MonteCarlo(4, 0).Columns(10), 4);
  EXPECT_EQ(CurvatureSpec{CurvatureKind::kEmpiricalFisher}.Columns(10), 1);
}

TEST(OutputFactorTest, GgnFactorIsARootOfTheOutputHessian) {
  const at::Tensor f = 3 * RandomNormal({6, 4}, 1);
  for (const Likelihood& likelihood : {kCategorical, kGaussian, kBernoulli}) {
    const at::Tensor factor = OutputFactor({}, likelihood, f, {}, {});
    EXPECT_EQ(factor.sizes(), at::IntArrayRef({6, 4, 4}));
    EXPECT_LT(Max(Square(factor) - reference::OutputHessian(likelihood, f)), 1e-14);
  }
  // Column c of the categorical one is sqrt(p_c) (e_c - p): the gradient for target c, signed and
  // weighted.
  const at::Tensor factor = OutputFactor({}, kCategorical, f, {}, {}), p = at::softmax(f, 1);
  const at::Tensor gradient = kCategorical.LossGradient(f, at::full({6}, 2, at::kLong));
  EXPECT_LT(Max(factor.select(2, 2) + p.select(1, 2).sqrt().unsqueeze(1) * gradient), 1e-15);
}

TEST(OutputFactorTest, KeepsThePrecisionOfTheOutputs) {
  const at::Tensor f = RandomNormal({3, 2}, 1, at::kFloat), rows = at::arange(3, at::kLong);
  const at::Tensor labels = at::zeros({3}, at::kLong);
  for (const CurvatureSpec& spec :
       {CurvatureSpec{}, MonteCarlo(2, 0), CurvatureSpec{CurvatureKind::kEmpiricalFisher}}) {
    EXPECT_EQ(OutputFactor(spec, kCategorical, f, labels, rows).scalar_type(), at::kFloat);
  }
}

TEST(OutputFactorTest, EmpiricalFisherFactorIsTheGradientAtTheTargets) {
  const at::Tensor f = RandomNormal({5, 3}, 1), labels = at::tensor({0, 2, 1, 1, 0}, at::kLong);
  const at::Tensor y = RandomNormal({5, 3}, 2), bits = (y > 0).to(at::kDouble);
  const CurvatureSpec spec{CurvatureKind::kEmpiricalFisher};
  const at::Tensor one_hot = at::one_hot(labels, 3);
  EXPECT_LT(Max(OutputFactor(spec, kCategorical, f, labels, {}).squeeze(2) -
                (at::softmax(f, 1) - one_hot)),
            1e-15);
  EXPECT_LT(Max(OutputFactor(spec, kGaussian, f, y, {}).squeeze(2) - (f - y) / 0.36), 1e-14);
  EXPECT_LT(Max(OutputFactor(spec, kBernoulli, f, bits, {}).squeeze(2) - (at::sigmoid(f) - bits)),
            1e-15);
}

TEST(OutputFactorTest, DrawsDependOnSeedAndRowAlone) {
  const at::Tensor f = RandomNormal({20, 3}, 1);
  const at::Tensor rows = at::arange(100, 120, at::kLong);
  for (const Likelihood& likelihood : {kCategorical, kGaussian, kBernoulli}) {
    const at::Tensor together = OutputFactor(MonteCarlo(5, 3), likelihood, f, {}, rows);
    EXPECT_EQ(together.sizes(), at::IntArrayRef({20, 3, 5}));
    EXPECT_TRUE(at::equal(together, OutputFactor(MonteCarlo(5, 3), likelihood, f, {}, rows)));
    EXPECT_FALSE(at::equal(together, OutputFactor(MonteCarlo(5, 4), likelihood, f, {}, rows)));
    EXPECT_FALSE(at::equal(together, OutputFactor(MonteCarlo(5, 3), likelihood, f, {}, rows + 1)));
    // Whatever the batch: another order, a part of it, one alone.
    const at::Tensor order = at::tensor({7, 0, 19, 3}, at::kLong);
    EXPECT_LT(Max(OutputFactor(MonteCarlo(5, 3), likelihood, f.index_select(0, order), {},
                               rows.index_select(0, order)) -
                  together.index_select(0, order)),
              1e-15);
    EXPECT_LT(Max(OutputFactor(MonteCarlo(5, 3), likelihood, f.narrow(0, 4, 1), {},
                               rows.narrow(0, 4, 1))[0] -
                  together[4]),
              1e-15);
  }
}

TEST(OutputFactorTest, DrawnTargetsFollowThePredictiveDistribution) {
  constexpr int64_t kSamples = 20000;
  const at::Tensor f = at::tensor({0.3, -1.0, 1.4}, at::kDouble).unsqueeze(0);
  const at::Tensor row = at::tensor({5}, at::kLong);
  const double root = std::sqrt(static_cast<double>(kSamples));
  for (const Likelihood& likelihood : {kCategorical, kGaussian, kBernoulli}) {
    // Columns times sqrt(S): one gradient per draw, [C, S].
    const at::Tensor scores =
        OutputFactor(MonteCarlo(kSamples, 1), likelihood, f, {}, row)[0] * root;
    const at::Tensor lambda = reference::OutputHessian(likelihood, f)[0];
    // The score has mean zero and covariance Lambda; each moment within 5 standard errors.
    const at::Tensor products = scores.unsqueeze(0) * scores.unsqueeze(1);  // [C, C, S]
    EXPECT_LT(Max(scores.mean(1) / scores.std(1)), 5 / root);
    EXPECT_LT(Max((products.mean(2) - lambda) / (products.std(2) + 1e-12)), 5 / root);
  }
}

// The statistic of one row over many seeds behaves like that of one stream: neighbouring rows and
// seeds do not repeat each other.
TEST(OutputFactorTest, NeighbouringRowsAndSeedsAreIndependent) {
  constexpr int64_t kRows = 4096;
  const at::Tensor f = at::zeros({kRows, 1}, at::kDouble), rows = at::arange(kRows, at::kLong);
  const auto signs = [&](uint64_t seed) {  // +-1 with equal probability
    return 2 * OutputFactor(MonteCarlo(1, seed), kBernoulli, f, {}, rows).flatten();
  };
  const at::Tensor a = signs(0), b = signs(1);
  const double bound = 5 / std::sqrt(static_cast<double>(kRows));
  const auto mean = [](const at::Tensor& t) { return std::abs(t.mean().item<double>()); };
  EXPECT_LT(mean(a), bound);
  EXPECT_LT(mean(a * b), bound);
  EXPECT_LT(mean(a.narrow(0, 1, kRows - 1) * a.narrow(0, 0, kRows - 1)), bound);
  EXPECT_LT(mean(a.narrow(0, 1, kRows - 1) * b.narrow(0, 0, kRows - 1)), bound);
}

TEST(McFisherTest, ConvergesToTheGgn) {
  constexpr int64_t kSamples = 3000;
  for (const auto& c : reference::RiskCases()) {
    const at::Tensor ggn = reference::Curvature(c.risk, {});
    const at::Tensor j = reference::Jacobians(c.risk.network, c.risk.data.inputs);
    const at::Tensor v = RandomNormal({c.risk.network.n_parameters()}, 3);
    const double exact = at::dot(v, at::mv(ggn, v)).item<double>();
    // (L'J v)^2 S of every draw; their mean over draws and examples is v'Fv.
    const at::Tensor factor =
        OutputFactor(MonteCarlo(kSamples, 9), c.risk.likelihood,
                     c.risk.network.Forward(c.risk.data.inputs), {}, AllRows(c.risk));
    const at::Tensor q =
        at::matmul(at::matmul(j, v).unsqueeze(1), factor).squeeze(1).square() * kSamples;  // [B, S]
    const double variance = q.var(1, true).sum().item<double>() /
                            (static_cast<double>(kSamples) * std::pow(c.risk.size(), 2));
    EXPECT_NEAR(q.mean().item<double>(), exact, 4 * std::sqrt(variance)) << c.name;
    EXPECT_LT(std::sqrt(variance), 0.1 * exact) << c.name;
    const auto op = MakeCurvatureOperator(c.risk, AllRows(c.risk), MonteCarlo(kSamples, 9));
    EXPECT_NEAR((op->Apply(v.unsqueeze(1)).value().squeeze(1) * v).sum().item<double>(),
                q.mean().item<double>(), 1e-9)
        << c.name;
  }
}

TEST(McFisherTest, IsDeterministicInTheSeed) {
  const auto c = reference::RiskCases()[0];
  const at::Tensor v = RandomNormal({c.risk.network.n_parameters(), 1}, 3);
  const auto product = [&](uint64_t seed) {
    return MakeCurvatureOperator(c.risk, AllRows(c.risk), MonteCarlo(1, seed))->Apply(v).value();
  };
  EXPECT_TRUE(at::equal(product(1), product(1)));
  EXPECT_FALSE(at::equal(product(1), product(2)));
}

}  // namespace
}  // namespace laplaced
