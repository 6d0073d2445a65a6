#include "server/serving/variance_plan.h"

#include <gtest/gtest.h>

#include "server/model/field_error.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

// A network with a thousand outputs, whose exact variances do not fit.
VarianceProblem Wide() {
  VarianceProblem problem;
  problem.batch = 2;
  problem.n_outputs = 1000;
  problem.n_parameters = 1'400'000;
  problem.largest_parameter = 900'000;
  problem.last_layer_parameters = 400'000;
  problem.forward_macs = problem.row_macs = 3e7;
  return problem;
}

VarianceProblem Small() {
  VarianceProblem problem;
  problem.n_outputs = 3;
  problem.n_parameters = problem.largest_parameter = 50;
  problem.forward_macs = problem.row_macs = 50;
  return problem;
}

const VarianceNeeds kLogits{Likelihood::Kind::kCategorical, {"msp"}, true};
const VarianceNeeds kUsual{Likelihood::Kind::kCategorical, {"laplace_entropy"}, false};

VarianceMode ModeOf(const PredictOptions& options, const VarianceNeeds& needs,
                    const VarianceProblem& problem) {
  const auto plan = PlanVariance(options, needs, problem);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return plan.ok() ? plan->mode : VarianceMode::kAuto;
}

TEST(VariancePlanTest, AutoTakesTheCheapestModeThatGivesWhatIsAskedFor) {
  EXPECT_EQ(ModeOf({}, kUsual, Small()), VarianceMode::kExact);
  EXPECT_EQ(ModeOf({}, kLogits, Wide()), VarianceMode::kTopClasses);
  EXPECT_EQ(ModeOf({}, kUsual, Wide()), VarianceMode::kSampled) << "the default score needs V";
  PredictOptions options;
  options.link_approx = LinkApprox::kMonteCarlo;
  EXPECT_EQ(ModeOf(options, kLogits, Wide()), VarianceMode::kSampled);
  options = {};
  options.return_covariance = true;
  EXPECT_EQ(ModeOf(options, kLogits, Wide()), VarianceMode::kSampled);
  const VarianceNeeds labels{Likelihood::Kind::kBernoulli, {"energy"}, true};
  EXPECT_EQ(ModeOf({}, labels, Wide()), VarianceMode::kSampled);
  // What only EXACT has is refused where EXACT does not fit.
  options = {};
  options.return_joint_covariance = true;
  EXPECT_EQ(ModeOf(options, kUsual, Small()), VarianceMode::kExact);
  EXPECT_EQ(FieldOf(PlanVariance(options, kUsual, Wide()).status()), "variance_mode");
  const VarianceNeeds directions{Likelihood::Kind::kCategorical, {"local_ensemble"}, true};
  EXPECT_EQ(ModeOf({}, directions, Small()), VarianceMode::kExact);
  EXPECT_EQ(FieldOf(PlanVariance(PredictOptions{}, directions, Wide()).status()), "variance_mode");
}

TEST(VariancePlanTest, ReportsWhatTheModeTakes) {
  PredictOptions options;
  options.variance_mode = VarianceMode::kSampled;
  auto plan = PlanVariance(options, kUsual, Small());
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->samples, kDefaultSamples);
  EXPECT_DOUBLE_EQ(plan->relative_error, VarianceRelativeError(kDefaultSamples));
  VarianceProblem twice = Small();
  twice.precisions = 2;  // the score has a precision of its own
  EXPECT_DOUBLE_EQ(plan->estimated_flops,
                   CostOf(VarianceMode::kSampled, kDefaultSamples, twice).flops);
  options.variance_mode = VarianceMode::kTopClasses;
  options.top_classes = 100;
  plan = PlanVariance(options, kLogits, Small());
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->top_classes, 3) << "there are no more";
  EXPECT_EQ(plan->samples, 0);
}

TEST(VariancePlanTest, ScoresFromLogitsNeedNoMode) {
  ScoreOptions options;
  options.variance_mode = VarianceMode::kTopClasses;
  EXPECT_EQ(PlanVariance(options, kLogits, Wide())->mode, VarianceMode::kAuto);
  VarianceNeeds usual = kUsual;
  usual.scores_named = true;
  EXPECT_EQ(FieldOf(PlanVariance(options, usual, Wide()).status()), "ood_scores[0]");
  EXPECT_EQ(PlanVariance(ScoreOptions{}, usual, Wide())->mode, VarianceMode::kSampled);
}

TEST(VariancePlanTest, RefusesLinksAndModesThatMeanNothing) {
  PredictOptions options;
  options.link_approx = LinkApprox::kLaplaceBridge;
  const VarianceNeeds labels{Likelihood::Kind::kBernoulli, {"energy"}, true};
  EXPECT_EQ(FieldOf(PlanVariance(options, labels, Small()).status()), "link_approx");
  options = {};
  options.variance_mode = VarianceMode::kTopClasses;
  EXPECT_EQ(FieldOf(PlanVariance(options, labels, Small()).status()), "variance_mode");
  options.variance_mode = VarianceMode::kLastLayer;
  EXPECT_EQ(FieldOf(PlanVariance(options, kUsual, Small()).status()), "variance_mode")
      << "no parameter of the last layer is uncertain";
}

TEST(VariancePlanTest, AProblemHasTheNetworksSizes) {
  const Network conv = reference::ConvNet(3);
  const VarianceProblem problem = ProblemOf(conv, FindCapturedParameters(conv));
  EXPECT_EQ(problem.n_outputs, 3);
  EXPECT_EQ(problem.n_parameters, conv.n_parameters());
  EXPECT_EQ(problem.largest_parameter, 81);
  EXPECT_EQ(problem.n_tensors, 4);
  EXPECT_EQ(problem.generic_parameters, 0);
  EXPECT_EQ(problem.largest_gradient, 3 * 36) << "after the convolution";
  EXPECT_EQ(problem.gradient_numel, 3 * 36 + 3);
  EXPECT_EQ(problem.forward_macs, 36 * 54 + 81) << "36 places of 54 weights, and a head";
  // The last one is no kind of layer that is known.
  const Network generic =
      reference::MakeNetwork(reference::MakeModule({{"w", {3, 4}}, {"v", {5}}},
                                                   "  return torch.linear(x, self.w) + "
                                                   "torch.sin(self.v).sum()\n",
                                                   at::kDouble),
                             {4}, 3);
  const VarianceProblem mixed = ProblemOf(generic, FindCapturedParameters(generic));
  EXPECT_EQ(mixed.generic_parameters, 5);
  EXPECT_EQ(mixed.forward_macs, 12 + 5);
}

}  // namespace
}  // namespace laplaced
