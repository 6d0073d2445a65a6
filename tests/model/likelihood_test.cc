#include "server/model/likelihood.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/autograd.h>

#include <cmath>

#include "server/model/field_error.h"
#include "tests/reference/dense.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::RandomNormal;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

const Likelihood kCategorical{};
const Likelihood kGaussian{Likelihood::Kind::kGaussian, 0.6};

TEST(LikelihoodTest, LossIsTheNegativeLogDensity) {
  const at::Tensor f = at::tensor({1.0, 2.0, 0.5}, at::kDouble).unsqueeze(0);
  const double z = std::exp(1.0) + std::exp(2.0) + std::exp(0.5);
  EXPECT_NEAR(kCategorical.Loss(f, at::tensor({2}, at::kLong)).item<double>(),
              -std::log(std::exp(0.5) / z), 1e-14);
  const at::Tensor y = at::tensor({0.0, 2.5, 0.5}, at::kDouble).unsqueeze(0);
  double expected = 0;
  for (int i = 0; i < 3; ++i) {
    const double r = (f[0][i] - y[0][i]).item<double>();
    expected -= std::log(std::exp(-r * r / (2 * 0.36)) / std::sqrt(2 * M_PI * 0.36));
  }
  EXPECT_NEAR(kGaussian.Loss(f, y).item<double>(), expected, 1e-13);
}

TEST(LikelihoodTest, HessianIsTheSecondDerivativeOfTheLoss) {
  for (const Likelihood& likelihood : {kCategorical, kGaussian}) {
    const at::Tensor f = RandomNormal({1, 4}, 1).requires_grad_(true);
    const at::Tensor y = likelihood.kind == Likelihood::Kind::kCategorical
                             ? at::tensor({1}, at::kLong)
                             : RandomNormal({1, 4}, 2);
    const at::Tensor grad = torch::autograd::grad({likelihood.Loss(f, y).sum()}, {f}, {}, true,
                                                  /*create_graph=*/true)[0];
    std::vector<at::Tensor> rows;
    for (int64_t i = 0; i < 4; ++i)
      rows.push_back(torch::autograd::grad({grad[0][i]}, {f}, {}, true)[0][0]);
    const at::Tensor hessian = likelihood.Hessian(f.detach());
    EXPECT_LT(Max(hessian[0] - at::stack(rows)), 1e-13);
    EXPECT_LT(Max(hessian - reference::OutputHessian(likelihood, f.detach())), 1e-13);
    const at::Tensor v = RandomNormal({1, 4}, 3);
    EXPECT_LT(Max(likelihood.ApplyHessian(f.detach(), v)[0] - at::mv(hessian[0], v[0])), 1e-13);
  }
}

TEST(LikelihoodTest, TargetsAreChecked) {
  EXPECT_TRUE(kCategorical.CheckTargets("t", at::tensor({0, 2}, at::kLong), 3).ok());
  const auto message = [](const absl::Status& status) { return std::string(status.message()); };
  EXPECT_THAT(message(kCategorical.CheckTargets("t", at::tensor({0, -1}, at::kLong), 3)),
              ::testing::HasSubstr("row 1 has label -1, expected 0 to 2"));
  EXPECT_THAT(message(kCategorical.CheckTargets("t", at::zeros({2}), 3)),
              ::testing::HasSubstr("expected int64"));
  EXPECT_TRUE(kGaussian.CheckTargets("t", at::zeros({2, 3}), 3).ok());
  EXPECT_THAT(message(kGaussian.CheckTargets("t", at::zeros({2, 4}), 3)),
              ::testing::HasSubstr("[N, 3]"));
  EXPECT_THAT(message(kGaussian.CheckTargets("t", at::full({2, 3}, NAN), 3)),
              ::testing::HasSubstr("row 0"));
  EXPECT_EQ(FieldOf(kGaussian.CheckTargets("t", at::zeros({2, 4}), 3)), "t");
}

}  // namespace
}  // namespace laplaced
