// Oracle 8 (operator laws), 5 (softmax regression) and batch-split invariance of the curvature
// operator, in fp64.
#include "server/curvature/ggn_operator.h"

#include <gtest/gtest.h>

#include "server/linalg/lanczos.h"
#include "tests/reference/dense.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::RandomNormal;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

struct Case {
  std::string name;
  EmpiricalRisk risk;
};

std::vector<Case> Cases() {
  const Likelihood categorical;
  const Likelihood gaussian{Likelihood::Kind::kGaussian, 0.7};
  const at::Tensor labels = at::arange(12, at::kLong).remainder(3);
  std::vector<Case> cases;
  cases.push_back({"mlp", reference::MakeRisk(reference::TanhMlp(4, 5, 3), categorical,
                                              RandomNormal({12, 4}, 1), labels)});
  cases.push_back(
      {"mlp gaussian", reference::MakeRisk(reference::TanhMlp(4, 5, 2), gaussian,
                                           RandomNormal({12, 4}, 1), RandomNormal({12, 2}, 2))});
  cases.push_back(
      {"conv, in-place relu", reference::MakeRisk(reference::ConvNet(3), categorical,
                                                  RandomNormal({12, 2, 6, 6}, 3), labels)});
  return cases;
}

at::Tensor All(const EmpiricalRisk& risk) { return at::arange(risk.size(), at::kLong); }

TEST(GgnOperatorTest, EqualsTheDenseMatrix) {
  for (const Case& c : Cases()) {
    const at::Tensor dense = reference::Ggn(c.risk.network, c.risk.likelihood, c.risk.data.inputs);
    const auto product =
        GgnOperator(c.risk, All(c.risk)).Apply(at::eye(dense.size(0), at::kDouble));
    ASSERT_TRUE(product.ok()) << c.name << product.status();
    EXPECT_LT(Max(*product - dense), 1e-12 * std::max(1.0, Max(dense))) << c.name;
  }
}

TEST(GgnOperatorTest, IsSymmetricPositiveAndLinear) {
  for (const Case& c : Cases()) {
    const GgnOperator op(c.risk, All(c.risk));
    const at::Tensor u = RandomNormal({op.Rows(), 1}, 10), v = RandomNormal({op.Rows(), 1}, 11);
    const at::Tensor gu = *op.Apply(u), gv = *op.Apply(v);
    EXPECT_NEAR((u * gv).sum().item<double>(), (gu * v).sum().item<double>(), 1e-10) << c.name;
    EXPECT_GE((v * gv).sum().item<double>(), 0) << c.name;
    EXPECT_LT(Max(*op.Apply(2 * u - 3 * v) - (2 * gu - 3 * gv)), 1e-11) << c.name;
  }
}

TEST(GgnOperatorTest, ForwardModeAgreesWithReverseModeAndFiniteDifferences) {
  for (const Case& c : Cases()) {
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
  const Case c = Cases()[0];
  const at::Tensor before = c.risk.network.FlatParameters().clone();
  const at::Tensor f = c.risk.network.Forward(c.risk.data.inputs);
  ASSERT_TRUE(GgnOperator(c.risk, All(c.risk)).Apply(RandomNormal({before.size(0), 2}, 1)).ok());
  EXPECT_TRUE(at::equal(before, c.risk.network.FlatParameters()));
  EXPECT_TRUE(at::equal(f, c.risk.network.Forward(c.risk.data.inputs)));
}

TEST(GgnOperatorTest, SplittingTheBatchChangesNothing) {
  for (Case& c : Cases()) {
    const at::Tensor v = RandomNormal({c.risk.network.n_parameters(), 1}, 6);
    const at::Tensor whole = *GgnOperator(c.risk, All(c.risk)).Apply(v);
    for (int64_t chunk : {1, 5, 12}) {
      c.risk.chunk_size = chunk;
      EXPECT_LT(Max(*GgnOperator(c.risk, All(c.risk).flip(0)).Apply(v) - whole), 1e-12)
          << c.name << chunk;
    }
  }
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
  const GgnOperator op(risk, All(risk));
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
