// The Kronecker structure against the dense matrix that it stands for, in fp64.
#include "server/laplace/kronecker_structure.h"

#include <gtest/gtest.h>

#include "tests/reference/dense.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::RandomNormal;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

TEST(KroneckerStructureTest, EverythingAgreesWithTheDenseMatrix) {
  const EmpiricalRisk risk =
      reference::MakeRisk(reference::ConvNet(3), Likelihood{}, RandomNormal({10, 2, 6, 6}, 1),
                          at::arange(10, at::kLong).remainder(3));
  const Network& network = risk.network;
  const CapturePlan plan = FindCapturedParameters(network);
  const auto bases = FindBlockBases(risk, plan, at::arange(10, at::kLong), {});
  ASSERT_TRUE(bases.ok()) << bases.status();
  for (const std::vector<double>& scale :
       {std::vector<double>{}, std::vector<double>{1, 0.2, 1, 0.2}}) {
    KroneckerCurvature curvature{bases->bases, bases->biased.Values(), scale};
    for (at::Tensor& v : curvature.values) v = v.clamp_min(0);
    const Precisions at{30, 0.5};
    const int64_t p = network.n_parameters();
    at::Tensor precision = at::zeros({p, p}, at::kDouble), prior = at::ones({p}, at::kDouble);
    for (size_t i = 0; i < curvature.bases.size(); ++i) {
      const Parameter& parameter = network.parameters()[i];
      const int64_t n = parameter.value.numel();
      const at::Tensor q = curvature.bases[i].FromBasis(at::eye(n, at::kDouble)).t();
      precision.narrow(0, parameter.offset, n)
          .narrow(1, parameter.offset, n)
          .copy_(30 * at::mm(q * curvature.values[i], q.t()));
      if (!scale.empty()) prior.narrow(0, parameter.offset, n).fill_(scale[i]);
    }
    precision += 0.5 * at::diag(prior);
    const at::Tensor covariance = at::inverse(precision);

    const KroneckerStructure structure(curvature, at::kDouble);
    EXPECT_EQ(structure.n_parameters(), p);
    EXPECT_NEAR(structure.LogDetPrecision(at), at::logdet(precision).item<double>(), 1e-8);
    EXPECT_NEAR(structure.EffectiveParameters(at),
                static_cast<double>(p) - 0.5 * (prior * covariance.diagonal()).sum().item<double>(),
                1e-8);
    const at::Tensor root = structure.Deviations(at, at::eye(p, at::kDouble));
    EXPECT_LT(Max(at::mm(root, root.t()) - covariance), 1e-10);

    const at::Tensor x = RandomNormal({4, 2, 6, 6}, 3), j = reference::Jacobians(network, x);
    const at::Tensor v = at::matmul(at::matmul(j, covariance), j.transpose(1, 2));
    LinearizeRequest request;
    request.covariance_at = {at};
    request.variance_at = {{30, 5}, at};
    request.outside = true;
    const auto linearized = structure.Linearize(network, plan, x, request);
    ASSERT_TRUE(linearized.ok()) << linearized.status();
    EXPECT_LT(Max(linearized->covariance[0] - v), 1e-10 * Max(v));
    EXPECT_LT(Max(linearized->variance[1] - v.diagonal(0, 1, 2)), 1e-10 * Max(v));
    EXPECT_LT(linearized->variance[0].sum().item<double>(),
              linearized->variance[1].sum().item<double>());
    EXPECT_FALSE(linearized->outside.defined());

    const at::Tensor rows = j.flatten(0, 1);
    const at::Tensor joint = at::mm(at::mm(rows, covariance), rows.t());
    EXPECT_LT(Max(structure.RowCovariance(at, rows) - joint), 1e-10 * Max(v));

    // Two outputs of each example, in an order of its own; then the last layer alone.
    LinearizeRequest part;
    part.covariance_at = part.variance_at = {at};
    part.outputs = at::tensor({0, 2, 2, 1, 1, 0, 2, 0}, at::kLong).view({4, 2});
    const auto some = structure.Linearize(network, plan, x, part);
    ASSERT_TRUE(some.ok()) << some.status();
    const at::Tensor mine = j.gather(1, part.outputs.unsqueeze(2).expand({4, 2, p}));
    const at::Tensor v_some = at::matmul(at::matmul(mine, covariance), mine.transpose(1, 2));
    EXPECT_LT(Max(some->covariance[0] - v_some), 1e-10 * Max(v));
    EXPECT_LT(Max(some->variance[0] - v_some.diagonal(0, 1, 2)), 1e-10 * Max(v));
    part.outputs = at::Tensor();
    part.parameters = {false, false, true, true};
    const auto last = structure.Linearize(network, plan, x, part);
    ASSERT_TRUE(last.ok()) << last.status();
    at::Tensor held = j.clone();
    held.narrow(2, 0, network.parameters()[2].offset).zero_();
    const at::Tensor v_last = at::matmul(at::matmul(held, covariance), held.transpose(1, 2));
    EXPECT_LT(Max(last->covariance[0] - v_last), 1e-10 * Max(v));
  }
}

}  // namespace
}  // namespace laplaced
