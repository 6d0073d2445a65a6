// The Hessian against what defines it: differences of gradients, and closed forms.
#include "server/curvature/hessian_operator.h"

#include <gtest/gtest.h>

#include "server/curvature/ggn_operator.h"
#include "tests/reference/dense.h"
#include "tests/reference/networks.h"
#include "tests/reference/risks.h"

namespace laplaced {
namespace {

using reference::AllRows;
using reference::RandomNormal;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

// Gradient of the mean loss at theta + step * v.
at::Tensor GradientAt(const EmpiricalRisk& risk, const at::Tensor& v, double step) {
  const Network moved = risk.network.Clone().value();
  {
    at::NoGradGuard no_grad;
    for (const Parameter& p : moved.parameters()) {
      at::Tensor(p.value).add_(v.narrow(0, p.offset, p.value.numel()).view(p.value.sizes()), step);
    }
  }
  const at::Tensor f = moved.ForwardWithGraph(risk.data.inputs);
  return moved.Vjp(f, risk.likelihood.LossGradient(f.detach(), risk.data.targets)) /
         static_cast<double>(risk.size());
}

TEST(HessianOperatorTest, IsTheDerivativeOfTheGradient) {
  for (const auto& c : reference::RiskCases()) {
    const at::Tensor v = RandomNormal({c.risk.network.n_parameters()}, 4);
    const double h = 1e-6;
    const at::Tensor difference = (GradientAt(c.risk, v, h) - GradientAt(c.risk, v, -h)) / (2 * h);
    const at::Tensor product =
        HessianOperator(c.risk, AllRows(c.risk)).Apply(v.unsqueeze(1)).value().squeeze(1);
    EXPECT_LT(Max(product - difference), 1e-7) << c.name;
  }
}

// Oracle 5: for outputs that are linear in the parameters the Hessian is the GGN, and has a closed
// form.
TEST(HessianOperatorTest, OfLinearModelsIsTheirGgn) {
  const at::Tensor x = RandomNormal({7, 4}, 1);
  const Network network = reference::LinearNetwork(4, 3);
  const at::Tensor f = network.Forward(x), identity = at::eye(12, at::kDouble);
  const std::vector<std::pair<Likelihood, at::Tensor>> cases = {
      {{}, at::tensor({0, 1, 2, 1, 0, 0, 2}, at::kLong)},
      {{Likelihood::Kind::kGaussian, 0.4}, RandomNormal({7, 3}, 2)},
      {{Likelihood::Kind::kBernoulli}, (RandomNormal({7, 3}, 2) > 0).to(at::kDouble)}};
  for (const auto& [likelihood, targets] : cases) {
    const EmpiricalRisk risk = reference::MakeRisk(network, likelihood, x, targets);
    const at::Tensor hessian = HessianOperator(risk, AllRows(risk)).Apply(identity).value();
    EXPECT_LT(Max(hessian - GgnOperator(risk, AllRows(risk)).Apply(identity).value()), 1e-12);
    const at::Tensor lambda = reference::OutputHessian(likelihood, f);
    at::Tensor expected = at::zeros({12, 12}, at::kDouble);
    for (int64_t n = 0; n < 7; ++n) expected += at::kron(lambda[n], at::outer(x[n], x[n])) / 7;
    EXPECT_LT(Max(hessian - expected), 1e-12);
  }
}

TEST(HessianOperatorTest, OfALossThatIsLinearInAParameterIsZeroThere) {
  // Softmax over (w x0, w x0) does not depend on w, and its gradient, 0, not either.
  const Network network = reference::MakeNetwork(
      reference::MakeModule({{"w", {1}}, {"u", {1}}},
                            "  return torch.stack([self.w * x[:, 0], self.w * x[:, 0] + "
                            "self.u], 1)\n",
                            at::kDouble),
      {1}, 2);
  const EmpiricalRisk risk = reference::MakeRisk(network, {}, RandomNormal({5, 1}, 1),
                                                 at::tensor({0, 1, 1, 0, 0}, at::kLong));
  const at::Tensor hessian =
      HessianOperator(risk, AllRows(risk)).Apply(at::eye(2, at::kDouble)).value();
  EXPECT_LT(Max(hessian[0]), 1e-15);
  EXPECT_LT(Max(hessian - reference::Hessian(risk)), 1e-15);
  EXPECT_GT(hessian[1][1].item<double>(), 0.1);
}

}  // namespace
}  // namespace laplaced
