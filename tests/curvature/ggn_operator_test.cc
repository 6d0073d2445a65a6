// The Gauss-Newton operator in fp64: forward mode, oracle 5 (softmax regression). What holds for
// every kind of curvature: curvature_operator_test.cc.
#include "server/curvature/ggn_operator.h"

#include <gtest/gtest.h>

#include "server/linalg/lanczos.h"
#include "tests/reference/dense.h"
#include "tests/reference/networks.h"
#include "tests/reference/risks.h"

namespace laplaced {
namespace {

using reference::AllRows;
using reference::RandomNormal;
using reference::RiskCase;
using reference::RiskCases;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

TEST(GgnOperatorTest, ForwardModeAgreesWithReverseModeAndFiniteDifferences) {
  for (const RiskCase& c : RiskCases()) {
    const Network& network = c.risk.network;
    const at::Tensor x = c.risk.data.inputs;
    const at::Tensor v = RandomNormal({network.n_parameters()}, 4);
    const auto [f, jv] = network.ForwardAndJvp(x, v);
    const at::Tensor s = RandomNormal(f.sizes(), 5);
    EXPECT_NEAR((jv * s).sum().item<double>(), (network.Vjp(f, s) * v).sum().item<double>(), 1e-10)
        << c.name;
    EXPECT_LT(Max(f.detach() - network.Forward(x)), 1e-14) << c.name;

    const double h = 1e-6;
    const auto moved = network.Clone();
    ASSERT_TRUE(moved.ok());
    const auto shift = [&](double step) {
      at::NoGradGuard no_grad;
      for (const Parameter& p : moved->parameters()) {
        at::Tensor value = p.value;
        value.add_(v.narrow(0, p.offset, p.value.numel()).view(p.value.sizes()), step);
      }
      return moved->Forward(x);
    };
    const at::Tensor up = shift(h), down = shift(-2 * h);
    EXPECT_LT(Max((up - down) / (2 * h) - jv), 1e-7) << c.name;
  }
}

TEST(GgnOperatorTest, ProductsLeaveTheParametersInPlace) {
  const RiskCase c = RiskCases()[0];
  const at::Tensor before = c.risk.network.FlatParameters().clone();
  const at::Tensor f = c.risk.network.Forward(c.risk.data.inputs);
  ASSERT_TRUE(
      GgnOperator(c.risk, AllRows(c.risk)).Apply(RandomNormal({before.size(0), 2}, 1)).ok());
  EXPECT_TRUE(at::equal(before, c.risk.network.FlatParameters()));
  EXPECT_TRUE(at::equal(f, c.risk.network.Forward(c.risk.data.inputs)));
}

TEST(GgnOperatorTest, SoftmaxRegressionIsItsHessianAndBreaksDownAtItsRank) {
  const Likelihood categorical;
  const at::Tensor x = RandomNormal({4, 6}, 1);
  const EmpiricalRisk risk = reference::MakeRisk(reference::LinearNetwork(6, 3), categorical, x,
                                                 at::tensor({0, 1, 2, 1}, at::kLong));
  const at::Tensor p = at::softmax(risk.network.Forward(x), 1);
  at::Tensor hessian = at::zeros({18, 18}, at::kDouble);
  for (int64_t n = 0; n < 4; ++n) {
    hessian += at::kron(at::diag(p[n]) - at::outer(p[n], p[n]), at::outer(x[n], x[n])) / 4;
  }
  const GgnOperator op(risk, AllRows(risk));
  EXPECT_LT(Max(*op.Apply(at::eye(18, at::kDouble)) - hessian), 1e-13);
  // Adding one vector to every class's row changes no probability.
  const at::Tensor shift = RandomNormal({1, 6}, 2).expand({3, 6}).reshape({18, 1});
  EXPECT_LT(Max(*op.Apply(shift)), 1e-13);

  LanczosOptions options;
  options.rank = 18;
  options.max_products = 200;
  const auto pairs = Lanczos(op, options);
  ASSERT_TRUE(pairs.ok());
  EXPECT_EQ(pairs->values.size(0), 8);  // min(P, N (C - 1))
  EXPECT_TRUE(pairs->rank_exhausted);
  const at::Tensor expected = std::get<0>(at::linalg_eigh(hessian, "L")).flip(0).narrow(0, 0, 8);
  EXPECT_LT(Max(pairs->values - expected), 1e-12);
  EXPECT_LT(Max(at::mm(pairs->vectors.t(), pairs->vectors) - at::eye(8, at::kDouble)), 1e-12);
}

}  // namespace
}  // namespace laplaced
