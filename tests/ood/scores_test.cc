#include "server/ood/scores.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "server/laplace/predictive.h"
#include "server/model/field_error.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::RandomNormal;

class ScoresTest : public ::testing::Test {
 protected:
  double Score(const std::string& name, int64_t row = 0) const {
    EXPECT_TRUE(CheckOodScores("ood_scores", {name}, likelihood_.kind).ok());
    return ComputeOodScores({name}, inputs_, likelihood_, &posterior_)[0][row].item<double>();
  }

  at::Tensor j_ = RandomNormal({2, 3, 5}, 1);
  at::Tensor u_ = at::eye(5, at::kDouble).narrow(1, 0, 2).contiguous();
  LowRankPosterior posterior_{u_, at::tensor({0.5, 0.1}, at::kDouble), 0.02, 10, 1.5};
  OodInputs inputs_{at::tensor({2.0, 0.0, -1.0, 0.1, 0.0, -0.1}, at::kDouble).view({2, 3}),
                    at::matmul(j_, u_), at::bmm(j_, j_.transpose(1, 2))};
  Likelihood likelihood_;
};

TEST_F(ScoresTest, LogitScoresMatchHandComputation) {
  const double z = std::exp(2.0) + 1 + std::exp(-1.0);
  const double p[] = {std::exp(2.0) / z, 1 / z, std::exp(-1.0) / z};
  EXPECT_NEAR(Score("msp"), 1 - p[0], 1e-15);
  EXPECT_DOUBLE_EQ(Score("max_logit"), -2);
  EXPECT_NEAR(Score("energy"), -std::log(z), 1e-15);
  EXPECT_NEAR(Score("entropy"),
              -(p[0] * std::log(p[0]) + p[1] * std::log(p[1]) + p[2] * std::log(p[2])), 1e-15);
}

TEST_F(ScoresTest, PosteriorScoresMatchTheDenseCovariance) {
  const at::Tensor precision = 10 * (at::mm(u_ * posterior_.curvature, u_.t()) +
                                     0.02 * (at::eye(5, at::kDouble) - at::mm(u_, u_.t()))) +
                               1.5 * at::eye(5, at::kDouble);
  const at::Tensor v = at::mm(at::mm(j_[0], at::inverse(precision)), j_[0].t());
  EXPECT_NEAR(Score("variance"), v.trace().item<double>(), 1e-12);
  const at::Tensor moderated = inputs_.f[0] / (1 + M_PI / 8 * v.diagonal()).sqrt();
  const at::Tensor p = at::softmax(moderated, 0);
  EXPECT_NEAR(Score("laplace_entropy"), -(p * p.log()).sum().item<double>(), 1e-12);
  EXPECT_NEAR(Score("laplace_msp"), 1 - p.max().item<double>(), 1e-12);
  EXPECT_NEAR(Score("moderated_energy"), -moderated.exp().sum().log().item<double>(), 1e-12);
  EXPECT_NEAR(Score("local_ensemble"), j_[0].narrow(1, 2, 3).square().sum().item<double>(), 1e-12);
  EXPECT_NEAR(
      Score("mutual_information"),
      SamplePredictive(inputs_.f.narrow(0, 0, 1), v.unsqueeze(0)).epistemic[0].item<double>(),
      1e-12);
  likelihood_ = {Likelihood::Kind::kGaussian, 0.5};
  EXPECT_NEAR(Score("information_gain"),
              0.5 * at::logdet(at::eye(3, at::kDouble) + v / 0.25).item<double>(), 1e-12);
}

TEST_F(ScoresTest, HigherMeansMoreOutOfDistributionForEveryScore) {
  // Row 0 is confident, row 1 has nearly equal logits; then the same logits with ten times the
  // Jacobian.
  for (const std::string name :
       {"msp", "max_logit", "energy", "entropy", "laplace_entropy", "laplace_msp"}) {
    EXPECT_GT(Score(name, 1), Score(name, 0)) << name;
  }
  ScoresTest::inputs_.f[1].copy_(inputs_.f[0]);
  inputs_.t[1].copy_(10 * inputs_.t[0]);
  inputs_.g[1].copy_(100 * inputs_.g[0]);
  for (const std::string name : {"variance", "laplace_entropy", "laplace_msp", "moderated_energy",
                                 "mutual_information", "local_ensemble"}) {
    EXPECT_GT(Score(name, 1), Score(name, 0)) << name;
  }
}

TEST_F(ScoresTest, ScoresFromLogitsNeedNoPosterior) {
  EXPECT_FALSE(NeedsPosterior({"msp", "max_logit", "energy", "entropy"}));
  EXPECT_TRUE(NeedsPosterior({"msp", "variance"}));
  const auto scores =
      ComputeOodScores({"energy", "msp"}, {inputs_.f, {}, {}}, likelihood_, nullptr);
  EXPECT_EQ(scores.size(), 2u);
}

TEST_F(ScoresTest, UnknownNamesListTheKnownOnes) {
  const absl::Status status =
      CheckOodScores("ood_scores", {"msp", "nope"}, Likelihood::Kind::kCategorical);
  EXPECT_EQ(FieldOf(status), "ood_scores[1]");
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("laplace_entropy"));
  EXPECT_FALSE(CheckOodScores("ood_scores", {"msp"}, Likelihood::Kind::kGaussian).ok());
  for (auto kind : {Likelihood::Kind::kCategorical, Likelihood::Kind::kGaussian}) {
    EXPECT_TRUE(CheckOodScores("s", OodScoreNames(kind), kind).ok());
    EXPECT_TRUE(CheckOodScores("s", {DefaultOodScore(kind)}, kind).ok());
  }
}

}  // namespace
}  // namespace laplaced
