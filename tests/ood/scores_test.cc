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

// A posterior with directions, without features and templates.
OodKnowledge Knows(Likelihood::Kind kind, bool has_directions = true) {
  OodKnowledge knowledge;
  knowledge.kind = kind;
  knowledge.has_directions = has_directions;
  return knowledge;
}

class ScoresTest : public ::testing::Test {
 protected:
  double Score(const std::string& name, int64_t row = 0) const {
    EXPECT_TRUE(CheckOodScores("ood_scores", {name}, Knows(likelihood_.kind)).ok()) << name;
    return ComputeOodScores({name}, inputs_, likelihood_, Knows(likelihood_.kind))[0][row]
        .item<double>();
  }
  // Inputs as they come from Jacobians [B, C, P] and a dense covariance of the parameters.
  static OodInputs Inputs(const at::Tensor& f, const at::Tensor& j, const at::Tensor& sigma) {
    return {f,
            {},
            at::matmul(at::matmul(j, sigma), j.transpose(1, 2)),
            j.square().sum(at::IntArrayRef({2, 1}))};
  }

  at::Tensor f_ = at::tensor({2.0, 0.0, -1.0, 0.1, 0.0, -0.1}, at::kDouble).view({2, 3});
  at::Tensor j_ = RandomNormal({2, 3, 5}, 1);
  at::Tensor sigma_ = at::diag(at::tensor({0.1, 0.2, 0.5, 0.7, 1.0}, at::kDouble));
  OodInputs inputs_ = Inputs(f_, j_, sigma_);
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

TEST_F(ScoresTest, PosteriorScoresMatchTheirDefinitions) {
  const at::Tensor v = at::mm(at::mm(j_[0], sigma_), j_[0].t());
  EXPECT_NEAR(Score("variance"), v.trace().item<double>(), 1e-12);
  const at::Tensor moderated = f_[0] / (1 + M_PI / 8 * v.diagonal()).sqrt();
  const at::Tensor p = at::softmax(moderated, 0);
  EXPECT_NEAR(Score("laplace_entropy"), -(p * p.log()).sum().item<double>(), 1e-12);
  EXPECT_NEAR(Score("laplace_msp"), 1 - p.max().item<double>(), 1e-12);
  EXPECT_NEAR(Score("moderated_energy"), -moderated.exp().sum().log().item<double>(), 1e-12);
  EXPECT_NEAR(Score("local_ensemble"), inputs_.outside[0].item<double>(), 1e-12);
  EXPECT_NEAR(Score("mutual_information"),
              SamplePredictive(f_.narrow(0, 0, 1), v.unsqueeze(0)).epistemic[0].item<double>(),
              1e-12);
  // From the variance alone, where that is enough.
  const double from_covariance = Score("laplace_entropy");
  inputs_ = {f_, inputs_.covariance.diagonal(0, 1, 2).contiguous(), {}, {}};
  EXPECT_NEAR(Score("laplace_entropy"), from_covariance, 1e-15);
  inputs_ = Inputs(f_, j_, sigma_);
  likelihood_ = {Likelihood::Kind::kGaussian, 0.5};
  EXPECT_NEAR(Score("information_gain"),
              0.5 * at::logdet(at::eye(3, at::kDouble) + v / 0.25).item<double>(), 1e-12);
}

TEST_F(ScoresTest, MultiLabelScoresSumOverLabels) {
  likelihood_ = {Likelihood::Kind::kBernoulli, 1};
  const at::Tensor v = inputs_.covariance[0].diagonal();
  const auto entropy = [](const at::Tensor& p) {
    return -(p * p.log() + (1 - p) * (1 - p).log()).sum().item<double>();
  };
  EXPECT_NEAR(Score("energy"), -(1 + f_[0].exp()).log().sum().item<double>(), 1e-12);
  EXPECT_NEAR(Score("entropy"), entropy(at::sigmoid(f_[0])), 1e-12);
  EXPECT_NEAR(Score("laplace_entropy"), entropy(at::sigmoid(f_[0] / (1 + M_PI / 8 * v).sqrt())),
              1e-12);
  EXPECT_NEAR(Score("mutual_information"),
              IntegrateBernoulli(f_, inputs_.covariance.diagonal(0, 1, 2))
                  .epistemic[0]
                  .sum()
                  .item<double>(),
              1e-12);
  EXPECT_FALSE(CheckOodScores("s", {"msp"}, Knows(likelihood_.kind)).ok());
}

TEST_F(ScoresTest, HigherMeansMoreOutOfDistributionForEveryScore) {
  // Row 0 is confident, row 1 has nearly equal logits; then the same logits with ten times the
  // Jacobian.
  for (const std::string name :
       {"msp", "max_logit", "energy", "entropy", "gen", "laplace_entropy", "laplace_msp"}) {
    EXPECT_GT(Score(name, 1), Score(name, 0)) << name;
  }
  f_[1].copy_(f_[0]);
  j_[1].copy_(10 * j_[0]);
  inputs_ = Inputs(f_, j_, sigma_);
  for (const std::string name : {"variance", "laplace_entropy", "laplace_msp", "moderated_energy",
                                 "mutual_information", "local_ensemble"}) {
    EXPECT_GT(Score(name, 1), Score(name, 0)) << name;
  }
}

TEST_F(ScoresTest, OnlyWhatIsNeededIsAskedOfThePosterior) {
  EXPECT_FALSE(NeedsPosterior({"msp", "max_logit", "energy", "entropy", "knn"}));
  EXPECT_TRUE(NeedsPosterior({"msp", "variance"}));
  EXPECT_EQ(
      ComputeOodScores({"energy", "msp"}, {f_, {}, {}, {}}, likelihood_, Knows(likelihood_.kind))
          .size(),
      2u);
  const LinearizeRequest variance = NeededFor({"msp", "laplace_entropy"}, {});
  EXPECT_TRUE(variance.variance_at.size() == 1 && variance.covariance_at.empty() &&
              !variance.outside);
  const LinearizeRequest all = NeededFor({"mutual_information", "variance", "local_ensemble"}, {});
  EXPECT_TRUE(all.variance_at.empty() && all.covariance_at.size() == 1 && all.outside);
}

TEST_F(ScoresTest, AModeThatCannotHaveAScoreSaysWhich) {
  const auto all = OodScoreNames(Knows(Likelihood::Kind::kCategorical));
  for (const VarianceMode mode : {VarianceMode::kExact, VarianceMode::kLastLayer}) {
    EXPECT_TRUE(CheckOodScoresIn(mode, "s", all).ok());
  }
  for (const std::string& name : all) {
    EXPECT_EQ(CheckOodScoresIn(VarianceMode::kTopClasses, "s", {name}).ok(),
              !NeedsPosterior({name}))
        << name;
    EXPECT_EQ(CheckOodScoresIn(VarianceMode::kSampled, "s", {name}).ok(), name != "local_ensemble")
        << name;
  }
  EXPECT_FALSE(CheckOodScoresIn(VarianceMode::kSampled, "s", {"information_gain"}).ok());
  const absl::Status status =
      CheckOodScoresIn(VarianceMode::kTopClasses, "ood_scores", {"msp", "variance"});
  EXPECT_EQ(FieldOf(status), "ood_scores[1]");
}

TEST_F(ScoresTest, KnownMutualInformationIsTaken) {
  inputs_ = {f_, {}, {}, {}, at::tensor({0.25, 0.5}, at::kDouble)};
  EXPECT_EQ(Score("mutual_information", 1), 0.5);
}

TEST_F(ScoresTest, ScoresOfDirectionsNeedDirections) {
  EXPECT_TRUE(CheckOodScores("s", {"local_ensemble"}, Knows(likelihood_.kind, true)).ok());
  EXPECT_FALSE(CheckOodScores("s", {"local_ensemble"}, Knows(likelihood_.kind, false)).ok());
}

TEST_F(ScoresTest, AScoreThatLacksSomethingSaysWhat) {
  const auto message = [&](const std::string& name) {
    return std::string(CheckOodScores("s", {name}, Knows(likelihood_.kind)).message());
  };
  EXPECT_THAT(message("knn"), ::testing::HasSubstr("needs features"));
  EXPECT_THAT(message("kl_matching"), ::testing::HasSubstr("validation data"));
}

TEST_F(ScoresTest, UnknownNamesListTheKnownOnes) {
  const absl::Status status =
      CheckOodScores("ood_scores", {"msp", "nope"}, Knows(Likelihood::Kind::kCategorical));
  EXPECT_EQ(FieldOf(status), "ood_scores[1]");
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("laplace_entropy"));
  EXPECT_FALSE(CheckOodScores("ood_scores", {"msp"}, Knows(Likelihood::Kind::kGaussian)).ok());
  for (auto kind : {Likelihood::Kind::kCategorical, Likelihood::Kind::kBernoulli,
                    Likelihood::Kind::kGaussian}) {
    EXPECT_TRUE(CheckOodScores("s", OodScoreNames(Knows(kind)), Knows(kind)).ok());
    EXPECT_TRUE(CheckOodScores("s", {DefaultOodScore(Knows(kind))}, Knows(kind)).ok());
  }
}

}  // namespace
}  // namespace laplaced
