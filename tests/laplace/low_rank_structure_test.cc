// The low-rank structure against dense matrices: every residual, orthonormal directions and not,
// one prior and two, in fp64. Oracles 2 (K = P, K = 0), 4 (the sampler as a linear map).
#include "server/laplace/low_rank_structure.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/reference/dense.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::RandomNormal;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

at::Tensor Identity(int64_t n) { return at::eye(n, at::kDouble); }

at::Tensor Orthonormal(int64_t n, int64_t k, uint64_t seed) {
  return std::get<0>(at::linalg_qr(RandomNormal({n, k}, seed)));
}

// Sigma^-1 from the definition, [P, P].
at::Tensor DensePrecision(const LowRankCurvature& c, const Precisions& at) {
  const int64_t p = c.directions.size(0);
  const at::Tensor u = c.directions.to(at::kDouble);
  at::Tensor h = at::zeros({p, p}, at::kDouble), prior = at::zeros({p}, at::kDouble);
  const at::Tensor pinv = at::linalg_pinv(u);
  const at::Tensor outside = Identity(p) - at::mm(u, pinv);
  at::Tensor lambda = c.curvature;
  if (c.standard_errors.defined()) {
    const at::Tensor along = at.likelihood * lambda + at.prior;
    const at::Tensor cv = at.likelihood * c.standard_errors / along;
    lambda = (along * (1 + cv.square()) - at.prior) / at.likelihood;
  }
  h += at::mm(u * (c.share * lambda), u.t());
  int64_t offset = 0;
  for (size_t i = 0; i < c.block_sizes.size(); ++i) {
    const int64_t n = c.block_sizes[i];
    const double scale = c.prior_scale.empty() ? 1 : c.prior_scale[i];
    prior.narrow(0, offset, n).fill_(scale);
    if (c.residual_kind == ResidualKind::kLayerwise) {
      h.diagonal().narrow(0, offset, n).add_(c.residual[static_cast<int64_t>(i)]);
    }
    offset += n;
  }
  if (c.residual_kind == ResidualKind::kIsotropic) h += c.residual * outside;
  if (c.residual_kind == ResidualKind::kDiagonal) h += at::diag(c.residual);
  return at.likelihood * h + at.prior * at::diag(prior);
}

struct Case {
  std::string name;
  LowRankCurvature curvature;
};

// Every combination for parameter tensors of the given sizes.
std::vector<Case> Cases(const std::vector<int64_t>& sizes) {
  int64_t p = 0;
  for (const int64_t size : sizes) p += size;
  const auto l = static_cast<int64_t>(sizes.size());
  std::vector<Case> cases;
  for (const int64_t k : {int64_t{0}, int64_t{3}, p}) {
    for (const bool orthonormal : {true, false}) {
      if (!orthonormal && k == 0) continue;
      for (const auto kind : {ResidualKind::kNone, ResidualKind::kIsotropic,
                              ResidualKind::kLayerwise, ResidualKind::kDiagonal}) {
        for (const bool two_priors : {false, true}) {
          for (const bool corrected : {false, true}) {
            LowRankCurvature c;
            c.directions = Orthonormal(p, k, 1);
            if (!orthonormal) {
              // Unit columns that overlap, two of them the same.
              c.directions = RandomNormal({p, k}, 2);
              c.directions.select(1, k - 1).copy_(c.directions.select(1, 0));
              c.directions = c.directions / c.directions.norm(2, {0}, true);
              c.share = 0.5;
            }
            c.curvature = at::arange(k, 0, -1, at::kDouble) * 0.3;
            if (corrected) c.standard_errors = c.curvature * 0.2;
            c.residual_kind = kind;
            if (kind == ResidualKind::kIsotropic) c.residual = at::full({1}, 0.02, at::kDouble);
            if (kind == ResidualKind::kLayerwise) {
              c.residual = at::arange(l, at::kDouble) * 0.01;
            }
            if (kind == ResidualKind::kDiagonal) c.residual = RandomNormal({p}, 3).abs() * 0.05;
            c.block_sizes = sizes;
            if (two_priors) {
              for (int64_t i = 0; i < l; ++i) c.prior_scale.push_back(i % 2 == 0 ? 1 : 0.25);
            }
            cases.push_back({"K=" + std::to_string(k) + (orthonormal ? "" : " overlapping") +
                                 " residual " + std::to_string(static_cast<int>(kind)) +
                                 (two_priors ? " two priors" : "") +
                                 (corrected ? " corrected" : ""),
                             c});
          }
        }
      }
    }
  }
  return cases;
}

class LowRankStructureTest : public ::testing::Test {
 protected:
  Network network_ = reference::TanhMlp(2, 3, 2);  // tensors of 6, 3, 6 and 2 elements
  CapturePlan plan_ = FindCapturedParameters(network_);
  std::vector<int64_t> sizes_ = {6, 3, 6, 2};
  Precisions at_{50, 0.7};
};

TEST_F(LowRankStructureTest, EverythingAgreesWithTheDenseMatrix) {
  const at::Tensor x = RandomNormal({5, 2}, 9), j = reference::Jacobians(network_, x);
  for (const Case& c : Cases(sizes_)) {
    const LowRankStructure structure(c.curvature);
    const at::Tensor precision = DensePrecision(c.curvature, at_);
    const at::Tensor covariance = at::inverse(precision);
    EXPECT_NEAR(structure.LogDetPrecision(at_), at::logdet(precision).item<double>(), 1e-9)
        << c.name;
    at::Tensor prior = at::ones({17}, at::kDouble);
    if (!c.curvature.prior_scale.empty()) {
      prior.narrow(0, 6, 3).fill_(0.25);
      prior.narrow(0, 15, 2).fill_(0.25);
    }
    EXPECT_NEAR(structure.EffectiveParameters(at_),
                17 - at_.prior * (prior * covariance.diagonal()).sum().item<double>(), 1e-9)
        << c.name;
    const at::Tensor root = structure.Deviations(at_, Identity(17));
    EXPECT_LT(Max(at::mm(root, root.t()) - covariance), 1e-10) << c.name;

    const Precisions other{20, 3};
    LinearizeRequest request;
    request.covariance_at = {at_, other};
    request.variance_at = {other, at_};
    request.outside = true;
    const auto linearized = structure.Linearize(network_, plan_, x, request);
    ASSERT_TRUE(linearized.ok()) << c.name << ": " << linearized.status();
    const auto dense = [&](const Precisions& at) {
      const at::Tensor sigma = at::inverse(DensePrecision(c.curvature, at));
      return at::matmul(at::matmul(j, sigma), j.transpose(1, 2));
    };
    EXPECT_LT(Max(linearized->f - network_.Forward(x)), 1e-12);
    EXPECT_LT(Max(linearized->covariance[0] - dense(at_)), 1e-10) << c.name;
    EXPECT_LT(Max(linearized->covariance[1] - dense(other)), 1e-10) << c.name;
    EXPECT_LT(Max(linearized->variance[0] - dense(other).diagonal(0, 1, 2)), 1e-10) << c.name;
    EXPECT_LT(Max(linearized->variance[1] - dense(at_).diagonal(0, 1, 2)), 1e-10) << c.name;
    const at::Tensor rows = j.flatten(0, 1);
    EXPECT_LT(Max(structure.RowCovariance(at_, rows) - at::mm(at::mm(rows, covariance), rows.t())),
              1e-10)
        << c.name;
    const at::Tensor u = c.curvature.directions;
    const at::Tensor outside = Identity(17) - at::mm(u, at::linalg_pinv(u));
    const at::Tensor expected = at::matmul(j, outside).square().sum({1, 2});
    EXPECT_LT(Max(linearized->outside - expected), 1e-8) << c.name;
  }
}

TEST_F(LowRankStructureTest, SomeOutputsAndSomeParametersAreBlocksOfTheWhole) {
  const Network network = reference::TanhMlp(2, 3, 4);
  const std::vector<int64_t> sizes = {6, 3, 12, 4};
  const CapturePlan plan = FindCapturedParameters(network);
  const at::Tensor x = RandomNormal({5, 2}, 9), j = reference::Jacobians(network, x);
  // In another order for every example.
  const at::Tensor outputs = at::tensor({0, 3, 2, 1, 3, 0, 1, 2, 2, 0}, at::kLong).view({5, 2});
  const at::Tensor index = outputs.unsqueeze(2);
  for (const Case& c : Cases(sizes)) {
    const LowRankStructure structure(c.curvature);
    const at::Tensor sigma = at::inverse(DensePrecision(c.curvature, at_));
    LinearizeRequest request;
    request.covariance_at = request.variance_at = {at_};
    request.outputs = outputs;
    const auto some = structure.Linearize(network, plan, x, request);
    ASSERT_TRUE(some.ok()) << c.name << ": " << some.status();
    const at::Tensor mine = j.gather(1, index.expand({5, 2, 25}));
    const at::Tensor v = at::matmul(at::matmul(mine, sigma), mine.transpose(1, 2));
    EXPECT_LT(Max(some->f - network.Forward(x)), 1e-12);
    EXPECT_LT(Max(some->covariance[0] - v), 1e-10) << c.name;
    EXPECT_LT(Max(some->variance[0] - v.diagonal(0, 1, 2)), 1e-10) << c.name;

    // The last layer: all other derivatives are zero, Sigma is the same.
    request.outputs = at::Tensor();
    request.outside = true;
    request.parameters = {false, false, true, true};
    const auto last = structure.Linearize(network, plan, x, request);
    ASSERT_TRUE(last.ok()) << c.name << ": " << last.status();
    at::Tensor held = j.clone();
    held.narrow(2, 0, 9).zero_();
    const at::Tensor w = at::matmul(at::matmul(held, sigma), held.transpose(1, 2));
    EXPECT_LT(Max(last->covariance[0] - w), 1e-10) << c.name;
    EXPECT_LT(Max(last->variance[0] - w.diagonal(0, 1, 2)), 1e-10) << c.name;
    const at::Tensor u = c.curvature.directions;
    const at::Tensor outside = Identity(25) - at::mm(u, at::linalg_pinv(u));
    EXPECT_LT(Max(last->outside - at::matmul(held, outside).square().sum({1, 2})), 1e-8) << c.name;
  }
}

TEST_F(LowRankStructureTest, SinglePrecisionStaysNearDoublePrecision) {
  const Network single = reference::TanhMlp(2, 3, 2, at::kFloat);
  const CapturePlan plan = FindCapturedParameters(single);
  const at::Tensor x = RandomNormal({5, 2}, 9, at::kFloat);
  const at::Tensor j = reference::Jacobians(single, x);
  for (Case& c : Cases(sizes_)) {
    LowRankCurvature curvature = c.curvature;
    curvature.directions = curvature.directions.to(at::kFloat).contiguous();
    LinearizeRequest request;
    request.covariance_at = {at_};
    const auto linearized = LowRankStructure(curvature).Linearize(single, plan, x, request);
    ASSERT_TRUE(linearized.ok()) << c.name;
    const at::Tensor sigma = at::inverse(DensePrecision(c.curvature, at_));
    const at::Tensor v = at::matmul(at::matmul(j, sigma), j.transpose(1, 2));
    EXPECT_LT(Max(linearized->covariance[0] - v), 2e-5 * Max(v) + 1e-6) << c.name;
  }
}

TEST_F(LowRankStructureTest, RankZeroWithoutResidualIsThePrior) {
  LowRankCurvature c;
  c.directions = at::zeros({17, 0}, at::kDouble);
  c.curvature = at::zeros({0}, at::kDouble);
  c.block_sizes = sizes_;
  const at::Tensor x = RandomNormal({3, 2}, 4), j = reference::Jacobians(network_, x);
  LinearizeRequest request;
  request.covariance_at = {at_};
  const auto prior = LowRankStructure(c).Linearize(network_, plan_, x, request);
  EXPECT_LT(Max(prior->covariance[0] - at::matmul(j, j.transpose(1, 2)) / 0.7), 1e-12);
}

TEST_F(LowRankStructureTest, VarianceFallsWithRankAndVanishesWithAStrongPrior) {
  const at::Tensor x = RandomNormal({1, 2}, 4);
  const at::Tensor all = Orthonormal(17, 17, 1);
  double previous = INFINITY;
  for (int64_t k = 0; k <= 17; ++k) {
    LowRankCurvature c;
    c.directions = all.narrow(1, 0, k).contiguous();
    c.curvature = at::ones({k}, at::kDouble);
    c.block_sizes = sizes_;
    LinearizeRequest request;
    request.variance_at = {at_, {50, 1e12}};
    const auto v = LowRankStructure(c).Linearize(network_, plan_, x, request);
    const double now = v->variance[0].sum().item<double>();
    EXPECT_LT(now, previous + 1e-12);
    previous = now;
    EXPECT_LT(Max(v->variance[1]), 1e-9);
  }
}

TEST_F(LowRankStructureTest, SamplesHaveThePosteriorsCovariance) {
  const LowRankCurvature c = Cases({2, 2})[9].curvature;
  const LowRankStructure structure(c);
  constexpr int64_t kSamples = 20000;
  const at::Tensor samples = structure.Deviations(at_, RandomNormal({4, kSamples}, 12));
  const at::Tensor empirical = at::mm(samples, samples.t()) / kSamples;
  const at::Tensor sigma = at::inverse(DensePrecision(c, at_));
  // Var of an entry of a Wishart mean: (s_ii s_jj + s_ij^2) / n.
  const at::Tensor diagonal = sigma.diagonal();
  const at::Tensor error = ((at::outer(diagonal, diagonal) + sigma.square()) / kSamples).sqrt();
  EXPECT_LT(Max((empirical - sigma) / error), 4.5);
}

TEST(LowRankResidualTest, ResidualSpreadsWhatTheDirectionsLeaveOver) {
  const at::Tensor curvature = at::tensor({3.0, 1.0}, at::kDouble);
  EXPECT_DOUBLE_EQ(IsotropicResidual(6.0, curvature, 10), 0.25);
  EXPECT_DOUBLE_EQ(IsotropicResidual(3.5, curvature, 10), 0);
  EXPECT_DOUBLE_EQ(IsotropicResidual(6.0, curvature, 2), 0);
}

// The correction of method.md section 4, tested for what it is for: with lambda~ random, the mean
// of the corrected variance is nearer to the variance at the true lambda.
TEST(VarianceCorrectionTest, TakesTheBiasOfInversionAway) {
  const double lambda = 0.3, error = 0.06, prior = 1;
  const double truth = 1 / (50 * lambda + prior);
  double plain = 0, corrected = 0;
  constexpr int64_t kDraws = 4000;
  const at::Tensor draws = lambda + error * RandomNormal({kDraws}, 5);
  for (int64_t i = 0; i < kDraws; ++i) {
    LowRankCurvature c;
    c.directions = at::ones({1, 1}, at::kDouble);
    c.curvature = draws.narrow(0, i, 1).clamp_min(0);
    c.block_sizes = {1};
    const at::Tensor one = at::ones({1, 1}, at::kDouble);
    const auto variance = [&] {
      const double b = LowRankStructure(c).Deviations({50, prior}, one).item<double>();
      return b * b;
    };
    plain += variance() / kDraws;
    c.standard_errors = at::full({1}, error, at::kDouble);
    corrected += variance() / kDraws;
  }
  EXPECT_GT(plain, 1.03 * truth);
  EXPECT_LT(std::abs(corrected - truth), 0.4 * (plain - truth));
}

}  // namespace
}  // namespace laplaced
