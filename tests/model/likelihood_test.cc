#include "server/model/likelihood.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/autograd.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "server/model/field_error.h"
#include "tests/reference/dense.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::RandomNormal;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

const Likelihood kCategorical{};
const Likelihood kGaussian{Likelihood::Kind::kGaussian, 0.6};
const Likelihood kBernoulli{Likelihood::Kind::kBernoulli};

// One target row for four outputs.
at::Tensor Target(const Likelihood& likelihood) {
  if (likelihood.kind == Likelihood::Kind::kCategorical) return at::tensor({1}, at::kLong);
  if (likelihood.kind == Likelihood::Kind::kGaussian) return RandomNormal({1, 4}, 2);
  return at::tensor({0.0, 1.0, 0.3, 1.0}, at::kDouble).unsqueeze(0);
}

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

TEST(LikelihoodTest, BernoulliMatchesItsFormulasElementByElement) {
  const at::Tensor f = at::tensor({1.0, -2.0, 0.0, 0.5, 3.0, -0.1}, at::kDouble).view({2, 3});
  const at::Tensor y = at::tensor({1.0, 0.0, 1.0, 0.25, 0.0, 1.0}, at::kDouble).view({2, 3});
  const at::Tensor loss = kBernoulli.Loss(f, y), gradient = kBernoulli.LossGradient(f, y),
                   hessian = kBernoulli.Hessian(f);
  for (int64_t n = 0; n < 2; ++n) {
    double sum = 0;
    for (int64_t c = 0; c < 3; ++c) {
      const double z = f[n][c].item<double>(), t = y[n][c].item<double>();
      const double p = 1 / (1 + std::exp(-z));
      sum -= t * std::log(p) + (1 - t) * std::log(1 - p);
      EXPECT_NEAR(gradient[n][c].item<double>(), p - t, 1e-15);
      for (int64_t d = 0; d < 3; ++d) {
        EXPECT_NEAR(hessian[n][c][d].item<double>(), c == d ? p * (1 - p) : 0, 1e-15);
      }
    }
    EXPECT_NEAR(loss[n].item<double>(), sum, 1e-14);
  }
}

TEST(LikelihoodTest, BernoulliIsStableFarOut) {
  const auto loss = [](double f, double y) {
    return kBernoulli.Loss(at::full({1, 1}, f, at::kDouble), at::full({1, 1}, y, at::kDouble))
        .item<double>();
  };
  EXPECT_DOUBLE_EQ(loss(800, 0), 800);
  EXPECT_DOUBLE_EQ(loss(-800, 1), 800);
  EXPECT_DOUBLE_EQ(loss(30, 1), std::log1p(std::exp(-30.0)));  // not lost in rounding
  EXPECT_DOUBLE_EQ(loss(800, 1), 0);
  const at::Tensor far = at::full({1, 1}, 40, at::kDouble), one = at::ones({1, 1}, at::kDouble);
  EXPECT_DOUBLE_EQ(kBernoulli.Hessian(far).item<double>(), std::exp(-40.0));
  EXPECT_DOUBLE_EQ(kBernoulli.LossGradient(far, one).item<double>(), -std::exp(-40.0));
}

TEST(LikelihoodTest, HessianIsTheSecondDerivativeOfTheLoss) {
  for (const Likelihood& likelihood : {kCategorical, kGaussian, kBernoulli}) {
    at::Tensor f = RandomNormal({1, 4}, 1);
    f[0][2] = 0;  // where a careless softplus has a kink
    f.requires_grad_(true);
    const at::Tensor y = Target(likelihood);
    const at::Tensor grad = torch::autograd::grad({likelihood.Loss(f, y).sum()}, {f}, {}, true,
                                                  /*create_graph=*/true)[0];
    EXPECT_LT(Max(likelihood.LossGradient(f.detach(), y) - grad), 1e-14);
    EXPECT_EQ(likelihood.LossGradient(f.detach().to(at::kFloat), y).scalar_type(), at::kFloat);
    std::vector<at::Tensor> rows;
    for (int64_t i = 0; i < 4; ++i)
      rows.push_back(torch::autograd::grad({grad[0][i]}, {f}, {}, true)[0][0]);
    const at::Tensor hessian = likelihood.Hessian(f.detach());
    EXPECT_LT(Max(hessian[0] - at::stack(rows)), 1e-13);
    EXPECT_LT(Max(hessian - reference::OutputHessian(likelihood, f.detach())), 1e-13);
    const at::Tensor v = RandomNormal({1, 4, 2}, 3);
    EXPECT_LT(Max(likelihood.ApplyHessianBlock(f.detach(), v) - at::bmm(hessian, v)), 1e-13);
    EXPECT_LT(
        Max(likelihood.ApplyHessian(f.detach(), v.select(2, 1)) - at::bmm(hessian, v).select(2, 1)),
        1e-13);
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
  EXPECT_TRUE(kBernoulli.CheckTargets("t", at::tensor({0.0, 1.0, 0.5}).view({1, 3}), 3).ok());
  EXPECT_THAT(message(kBernoulli.CheckTargets("t", at::ones({2}, at::kLong), 3)),
              ::testing::HasSubstr("expected floating-point labels in [0, 1] of shape [N, 3]"));
  for (double bad : {-0.1, 1.5, static_cast<double>(NAN)}) {
    at::Tensor labels = at::zeros({4, 3}, at::kDouble);
    labels[2][1] = bad;
    EXPECT_THAT(message(kBernoulli.CheckTargets("t", labels, 3)),
                ::testing::HasSubstr(absl::StrCat("row 2, column 1 is ", bad)));
  }
  EXPECT_EQ(FieldOf(kGaussian.CheckTargets("t", at::zeros({2, 4}), 3)), "t");
}

}  // namespace
}  // namespace laplaced
