// What holds for every kind of curvature, in fp64: oracle 8 (operator laws), 3 (batch-split and
// order invariance), the dense matrices, restriction to some parameters.
#include "server/curvature/curvature_operator.h"

#include <gtest/gtest.h>

#include "tests/reference/dense.h"
#include "tests/reference/networks.h"
#include "tests/reference/risks.h"

namespace laplaced {
namespace {

using reference::AllRows;
using reference::RandomNormal;
using reference::RiskCase;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

at::Tensor Dense(const EmpiricalRisk& risk, const CurvatureSpec& spec) {
  const auto op = MakeCurvatureOperator(risk, AllRows(risk), spec);
  return op->Apply(at::eye(op->Rows(), at::kDouble)).value();
}

struct Case : RiskCase {
  CurvatureSpec spec;
};

class CurvatureOperatorTest : public ::testing::Test {
 protected:
  // Every risk with every kind.
  static std::vector<Case> Cases() {
    std::vector<Case> cases;
    for (const RiskCase& c : reference::RiskCases()) {
      for (const CurvatureSpec& spec : reference::CurvatureSpecs()) {
        cases.push_back({c, spec});
        cases.back().name += ", kind " + std::to_string(static_cast<int>(spec.kind));
      }
    }
    return cases;
  }
};

TEST_F(CurvatureOperatorTest, EqualsTheDenseMatrix) {
  for (const Case& c : Cases()) {
    const at::Tensor dense = reference::Curvature(c.risk, c.spec);
    EXPECT_GT(Max(dense), 1e-3) << c.name;
    EXPECT_LT(Max(Dense(c.risk, c.spec) - dense), 1e-12 * std::max(1.0, Max(dense))) << c.name;
  }
}

TEST_F(CurvatureOperatorTest, IsSymmetricAndLinear) {
  for (const Case& c : Cases()) {
    const auto op = MakeCurvatureOperator(c.risk, AllRows(c.risk), c.spec);
    ASSERT_TRUE(op->SelfAdjoint());
    ASSERT_EQ(op->Cols(), op->Rows());
    const at::Tensor u = RandomNormal({op->Rows(), 1}, 10), v = RandomNormal({op->Rows(), 1}, 11);
    const at::Tensor gu = op->Apply(u).value(), gv = op->Apply(v).value();
    EXPECT_NEAR((u * gv).sum().item<double>(), (gu * v).sum().item<double>(), 1e-10) << c.name;
    EXPECT_LT(Max(op->Apply(2 * u - 3 * v).value() - (2 * gu - 3 * gv)), 1e-11) << c.name;
    EXPECT_LT(Max(op->Apply(at::cat({u, v}, 1)).value() - at::cat({gu, gv}, 1)), 1e-12) << c.name;
  }
}

TEST_F(CurvatureOperatorTest, IsPositiveSemiDefiniteButForTheHessian) {
  bool indefinite = false;
  for (const Case& c : Cases()) {
    const at::Tensor values = std::get<0>(at::linalg_eigh(Dense(c.risk, c.spec), "L"));
    if (c.spec.kind == CurvatureKind::kHessian) {
      indefinite |= values[0].item<double>() < -1e-6;
    } else {
      EXPECT_GT(values[0].item<double>(), -1e-12) << c.name;
    }
  }
  EXPECT_TRUE(indefinite);
}

TEST_F(CurvatureOperatorTest, SplittingAndReorderingTheBatchChangesNothing) {
  for (Case& c : Cases()) {
    const at::Tensor v = RandomNormal({c.risk.network.n_parameters(), 2}, 6);
    const at::Tensor whole =
        MakeCurvatureOperator(c.risk, AllRows(c.risk), c.spec)->Apply(v).value();
    for (int64_t chunk : {1, 5, 12}) {
      c.risk.chunk_size = chunk;
      const auto op = MakeCurvatureOperator(c.risk, AllRows(c.risk).flip(0), c.spec);
      EXPECT_LT(Max(op->Apply(v).value() - whole), 1e-12) << c.name << chunk;
    }
  }
}

TEST_F(CurvatureOperatorTest, IsAMeanOverTheExamplesOfTheBatch) {
  for (const Case& c : Cases()) {
    const at::Tensor v = RandomNormal({c.risk.network.n_parameters(), 1}, 6);
    at::Tensor sum = at::zeros_like(v);
    for (int64_t n = 3; n < 7; ++n) {
      sum += MakeCurvatureOperator(c.risk, at::tensor({n}, at::kLong), c.spec)->Apply(v).value();
    }
    const auto op = MakeCurvatureOperator(c.risk, at::arange(3, 7, at::kLong), c.spec);
    EXPECT_LT(Max(op->Apply(v).value() - sum / 4), 1e-12) << c.name;
  }
}

TEST_F(CurvatureOperatorTest, ARestrictedNetworkHasTheBlockOfItsParameters) {
  const std::vector<std::string> names = {"w1", "b2"};
  for (const Case& c : Cases()) {
    const at::Tensor dense = reference::Curvature(c.risk, c.spec);
    std::vector<at::Tensor> index;
    for (const Parameter& p : c.risk.network.parameters()) {
      if (p.name != names[0] && p.name != names[1]) continue;
      index.push_back(at::arange(p.offset, p.offset + p.value.numel(), at::kLong));
    }
    const at::Tensor rows = at::cat(index);
    const at::Tensor block = dense.index_select(0, rows).index_select(1, rows);
    EmpiricalRisk restricted = c.risk;
    restricted.network = c.risk.network.Restrict(names);
    EXPECT_LT(Max(Dense(restricted, c.spec) - block), 1e-12) << c.name;
    restricted.network = restricted.network.Clone().value();
    EXPECT_LT(Max(Dense(restricted, c.spec) - block), 1e-12) << c.name;
  }
}

TEST_F(CurvatureOperatorTest, MayBeAppliedWhereGradientModeIsOff) {
  at::NoGradGuard no_grad;
  for (const Case& c : Cases()) {
    const at::Tensor v = RandomNormal({c.risk.network.n_parameters(), 1}, 6);
    const at::Tensor product =
        MakeCurvatureOperator(c.risk, AllRows(c.risk), c.spec)->Apply(v).value();
    EXPECT_FALSE(product.requires_grad());
    at::AutoGradMode with_grad(true);
    EXPECT_TRUE(at::equal(product,
                          MakeCurvatureOperator(c.risk, AllRows(c.risk), c.spec)->Apply(v).value()))
        << c.name;
  }
}

}  // namespace
}  // namespace laplaced
