// The mean gradient against plain autograd and finite differences, in fp64.
#include "server/curvature/mean_gradient.h"

#include <gtest/gtest.h>
#include <torch/autograd.h>

#include "tests/reference/risks.h"
#include "tests/support/status_matchers.h"

namespace laplaced {
namespace {

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

// The gradient of the mean of the loss itself, by one reverse pass through it.
at::Tensor ByAutograd(const EmpiricalRisk& risk, const at::Tensor& rows) {
  const Dataset batch = risk.data.Select(rows);
  const at::Tensor f = risk.network.ForwardWithGraph(risk.NetworkInput(batch.inputs));
  at::AutoGradMode with_grad(true);
  std::vector<at::Tensor> leaves, flat;
  for (const Parameter& p : risk.network.parameters()) leaves.push_back(p.value);
  const at::Tensor loss = risk.likelihood.Loss(f, batch.targets).mean();
  for (const at::Tensor& g : torch::autograd::grad({loss}, leaves)) flat.push_back(g.flatten());
  return at::cat(flat);
}

TEST(MeanGradientTest, IsTheDerivativeOfTheMeanLossOfTheBatch) {
  for (reference::RiskCase& c : reference::RiskCases()) {
    const at::Tensor rows = at::tensor({1, 2, 5, 6, 7, 10, 11}, at::kLong);
    const auto gradient = MeanGradient(c.risk, rows);
    ASSERT_THAT(gradient, test_support::IsOk()) << c.name;
    EXPECT_EQ(gradient->scalar_type(), at::kDouble);
    EXPECT_LT(Max(*gradient - ByAutograd(c.risk, rows)), 1e-12) << c.name;
    // Whatever the chunks.
    c.risk.chunk_size = 3;
    EXPECT_LT(Max(*MeanGradient(c.risk, rows) - *gradient), 1e-13) << c.name;
  }
}

}  // namespace
}  // namespace laplaced
