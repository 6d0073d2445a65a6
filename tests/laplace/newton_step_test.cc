// Newton steps against dense computations and closed forms, in fp64.
#include "server/laplace/newton_step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "server/data/sampler.h"
#include "server/laplace/regularised_objective.h"
#include "server/model/field_error.h"
#include "server/model/parameter_values.h"
#include "tests/reference/dense.h"
#include "tests/reference/networks.h"
#include "tests/reference/risks.h"
#include "tests/support/status_matchers.h"

namespace laplaced {
namespace {

using reference::RandomNormal;
using test_support::IsOk;
using test_support::StatusIs;
using ::testing::HasSubstr;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

// A network that was not trained, on labels that follow from the inputs.
class NewtonTest : public ::testing::Test {
 protected:
  NewtonTest() {
    options_.direction_batch_size = 40;
    options_.curvature_batch_size = 60;
    options_.held_out_size = 50;
    options_.max_steps = 6;
    options_.damping = 0.01;
    options_.tolerance = 0;
    risk_.manifest.weight_decay = 0.02;
    risk_.manifest.bias_weight_decay = 0.005;
  }

  absl::StatusOr<NewtonResult> Run(const Dataset& held_out = {},
                                   const FitProgressFn& progress = nullptr) {
    if (absl::Status status = CheckNewton(risk_, held_out, options_); !status.ok()) return status;
    return RunNewton(risk_, held_out, options_, progress);
  }

  void ExpectRefused(const std::string& field, const std::string& text) {
    const absl::Status status = Run().status();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(text)));
    EXPECT_EQ(FieldOf(status), field);
  }

  EmpiricalRisk Of(const at::Tensor& rows) const {
    EmpiricalRisk part = risk_;
    part.data = risk_.data.Select(rows);
    return part;
  }
  // Held-out halves, B1, B2.
  std::vector<at::Tensor> Batches() const {
    return DisjointBatches(200, {25, 25, 40, 60}, options_.seed);
  }
  // Curvature and gradient of the objective, dense, by plain autograd through the loss.
  at::Tensor Curvature(const at::Tensor& rows) const {
    const EmpiricalRisk part = Of(rows);
    const at::Tensor loss = options_.curvature == CurvatureKind::kHessian
                                ? reference::Hessian(part)
                                : reference::Ggn(part.network, part.likelihood, part.data.inputs);
    return loss + at::diag(WeightDecayVector(risk_.network, risk_.manifest) + options_.damping);
  }
  at::Tensor Gradient(const at::Tensor& rows) const {
    const EmpiricalRisk part = Of(rows);
    const at::Tensor f = part.network.Forward(part.data.inputs);
    const at::Tensor seed = part.likelihood.LossGradient(f, part.data.targets);
    const at::Tensor j = reference::Jacobians(part.network, part.data.inputs);
    return at::einsum("ncp,nc->p", {j, seed}) / rows.size(0) +
           WeightDecayVector(risk_.network, risk_.manifest) * risk_.network.FlatParameters();
  }
  double Loss(const at::Tensor& theta, const Dataset& data) const {
    const Network moved = *WithParameters(risk_.network, theta);
    return risk_.likelihood.Loss(moved.Forward(data.inputs), data.targets).mean().item<double>();
  }

  at::Tensor inputs_ = RandomNormal({200, 4}, 1);
  EmpiricalRisk risk_ = reference::MakeRisk(reference::TanhMlp(4, 5, 3), Likelihood{}, inputs_,
                                            at::mm(inputs_, RandomNormal({4, 3}, 8)).argmax(1));
  NewtonOptions options_;
};

TEST_F(NewtonTest, TheDebiasedStepIsTheDenseOneAndItsNumbersAreThoseOfTheTwoBatches) {
  for (const CurvatureKind kind : {CurvatureKind::kGgn, CurvatureKind::kHessian}) {
    options_.curvature = kind;
    options_.damping = kind == CurvatureKind::kHessian ? 0.5 : 0.01;
    const auto result = Run();
    ASSERT_THAT(result, IsOk());
    const auto batches = Batches();
    const at::Tensor a1 = Curvature(batches[2]), a2 = Curvature(batches[3]),
                     g1 = Gradient(batches[2]), g2 = Gradient(batches[3]),
                     theta = risk_.network.FlatParameters();
    // Written out: conjugate gradients on B1, and along its directions the minimum on B2.
    at::Tensor x = at::zeros_like(theta), r = g1.clone(), d = -g1, on_b1 = at::zeros_like(theta);
    std::vector<at::Tensor> iterates = {x};
    ASSERT_EQ(result->trace.size(), 7);
    for (int k = 1; k <= 6; ++k) {
      const at::Tensor u = d / d.norm();
      const NewtonTrace& row = result->trace[k];
      EXPECT_EQ(row.step, k);
      EXPECT_NEAR(row.slope_b1, at::dot(u, g1 + at::mv(a1, on_b1)).item<double>(), 1e-8);
      EXPECT_NEAR(row.curvature_b1, at::dot(u, at::mv(a1, u)).item<double>(), 1e-8);
      EXPECT_NEAR(row.slope_b2, at::dot(u, g2 + at::mv(a2, x)).item<double>(), 1e-8);
      EXPECT_NEAR(row.curvature_b2, at::dot(u, at::mv(a2, u)).item<double>(), 1e-8);
      x = x - u * (at::dot(u, g2 + at::mv(a2, x)) / at::dot(u, at::mv(a2, u)));
      iterates.push_back(x);
      const at::Tensor alpha = at::dot(r, r) / at::dot(d, at::mv(a1, d));
      on_b1 = on_b1 + alpha * d;
      const at::Tensor next = r + alpha * at::mv(a1, d);
      d = -next + d * (at::dot(next, next) / at::dot(r, r));
      r = next;
    }
    // Losses at every iterate, the choice among them, and what the other half says of it.
    const Dataset choosing = risk_.data.Select(batches[0]), judging = risk_.data.Select(batches[1]);
    int64_t best = 0;
    for (int k = 0; k <= 6; ++k) {
      const NewtonTrace& row = result->trace[k];
      EXPECT_NEAR(row.choosing_loss, Loss(theta + iterates[k], choosing), 1e-8) << k;
      EXPECT_NEAR(row.batch_loss, Loss(theta + iterates[k], risk_.data.Select(batches[2])), 1e-8);
      if (row.choosing_loss < result->trace[best].choosing_loss) best = k;
    }
    EXPECT_EQ(result->chosen, best);
    EXPECT_GT(best, 0);
    EXPECT_LT(Max(result->parameters - theta - iterates[best]), 1e-8);
    EXPECT_NEAR(result->before.loss, Loss(theta, judging), 1e-12);
    EXPECT_NEAR(result->after.loss, Loss(theta + iterates[best], judging), 1e-8);
    EXPECT_NEAR(result->change, result->after.loss - result->before.loss, 1e-12);
    EXPECT_TRUE(result->improved);
    EXPECT_NEAR(result->relative_length, (iterates[best].norm() / theta.norm()).item<double>(),
                1e-8);
  }
}

TEST_F(NewtonTest, VariantsDifferInTheirBatchesAndShareTheHeldOutExamples) {
  const auto batches = Batches();
  std::set<double> first_slopes;
  for (const NewtonVariant variant : {NewtonVariant::kSingle, NewtonVariant::kDebiased,
                                      NewtonVariant::kEqualBudget, NewtonVariant::kOracle}) {
    options_.variant = variant;
    const auto result = Run();
    ASSERT_THAT(result, IsOk());
    at::Tensor rows = batches[2];
    if (variant == NewtonVariant::kEqualBudget) rows = at::cat({batches[2], batches[3]});
    if (variant == NewtonVariant::kOracle) {
      // All but the held-out ones.
      at::Tensor kept = at::ones({200}, at::kBool);
      kept.index_fill_(0, at::cat({batches[0], batches[1]}), 0);
      rows = kept.nonzero().squeeze(1);
      EXPECT_EQ(rows.size(0), 150);
    }
    EXPECT_NEAR(result->trace[1].slope_b1, -Gradient(rows).norm().item<double>(), 1e-10);
    first_slopes.insert(result->trace[1].slope_b1);
    EXPECT_EQ(std::isnan(result->trace[1].slope_b2), variant != NewtonVariant::kDebiased);
    EXPECT_NEAR(result->before.loss,
                Loss(risk_.network.FlatParameters(), risk_.data.Select(batches[1])), 1e-12);
    EXPECT_EQ(result->choosing_count, 25);
    EXPECT_EQ(result->judging_count, 25);
  }
  EXPECT_EQ(first_slopes.size(), 3);  // SINGLE and DEBIASED share B1
}

// Linear regression: the objective is the quadratic, and its minimum is known.
TEST_F(NewtonTest, OnALinearNetworkEnoughStepsEndAtTheRidgeSolution) {
  const Likelihood gaussian{Likelihood::Kind::kGaussian, 0.3};
  const at::Tensor x = RandomNormal({300, 5}, 3);
  const at::Tensor y = at::mm(x, RandomNormal({5, 2}, 4)) + 0.3 * RandomNormal({300, 2}, 5);
  risk_ = reference::MakeRisk(reference::LinearNetwork(5, 2), gaussian, x, y);
  risk_.manifest.weight_decay = risk_.manifest.bias_weight_decay = 0.7;
  options_.variant = NewtonVariant::kOracle;
  options_.max_steps = 12;
  options_.damping = 0;
  Dataset held_out;
  held_out.inputs = RandomNormal({80, 5}, 6);
  held_out.targets = at::mm(held_out.inputs, RandomNormal({5, 2}, 4));
  const auto result = Run(held_out);
  ASSERT_THAT(result, IsOk());
  const double scale = 1 / (300 * 0.3 * 0.3);
  const at::Tensor ridge =
      at::mm(at::inverse(at::mm(x.t(), x) * scale + 0.7 * at::eye(5, at::kDouble)),
             at::mm(x.t(), y) * scale)
          .t();
  ASSERT_TRUE(result->improved);
  // 10 parameters, but five distinct curvatures: five steps are enough, and more change nothing.
  EXPECT_GT(result->chosen, 0);
  options_.max_steps = 5;
  const auto path = FindNewtonPath(risk_, reference::AllRows(risk_), {}, options_);
  ASSERT_THAT(path, IsOk());
  const at::Tensor end = risk_.network.FlatParameters() + path->path().Iterate(path->path().size());
  EXPECT_LT(Max(end.view({2, 5}) - ridge), 1e-9);
  EXPECT_TRUE(std::isnan(result->before.accuracy));
}

TEST_F(NewtonTest, StaysWhereItIsIfNothingLowersTheHeldOutLoss) {
  // The held-out targets are the network's own answers: every other network is worse.
  const Likelihood gaussian{Likelihood::Kind::kGaussian, 0.3};
  risk_ = reference::MakeRisk(reference::TanhMlp(4, 5, 2), gaussian, inputs_,
                              RandomNormal({200, 2}, 5));
  Dataset held_out;
  held_out.inputs = RandomNormal({40, 4}, 6);
  held_out.targets = risk_.network.Forward(held_out.inputs);
  const auto result = Run(held_out);
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->chosen, 0);
  EXPECT_FALSE(result->improved);
  EXPECT_TRUE(at::equal(result->parameters, risk_.network.FlatParameters()));
  EXPECT_EQ(result->change, 0);
  EXPECT_THAT(Summary(*result), HasSubstr("no iterate has a lower held-out loss"));
}

// What was chosen on one half may fail on the other: then it is no improvement.
TEST_F(NewtonTest, AStepThatOnlyTheChoosingHalfLikesIsNoImprovement) {
  const Likelihood gaussian{Likelihood::Kind::kGaussian, 0.3};
  risk_ = reference::MakeRisk(reference::TanhMlp(4, 5, 2), gaussian, inputs_,
                              at::mm(inputs_, RandomNormal({4, 2}, 8)));
  Dataset held_out;
  held_out.inputs = RandomNormal({40, 4}, 6);
  held_out.targets = risk_.network.Forward(held_out.inputs);
  const at::Tensor choosing = DisjointBatches(40, {20, 20}, options_.seed)[0];
  held_out.targets.index_copy_(
      0, choosing, at::mm(held_out.inputs.index_select(0, choosing), RandomNormal({4, 2}, 8)));
  const auto result = Run(held_out);
  ASSERT_THAT(result, IsOk());
  EXPECT_GT(result->chosen, 0);
  EXPECT_GT(result->change, 0);
  EXPECT_FALSE(result->improved);
}

TEST_F(NewtonTest, LeavesTheNetworkAloneAndRepeatsItselfForOneSeed) {
  const at::Tensor theta = risk_.network.FlatParameters().clone();
  const auto first = Run(), second = Run();
  ASSERT_THAT(first, IsOk());
  EXPECT_TRUE(at::equal(risk_.network.FlatParameters(), theta));
  EXPECT_TRUE(at::equal(first->parameters, second->parameters));
  options_.seed = 1;
  EXPECT_FALSE(at::equal(Run()->parameters, first->parameters));
}

TEST_F(NewtonTest, SaysThatHeldOutExamplesAreTrainingExamples) {
  const auto result = Run(risk_.data.Slice(0, 30));
  ASSERT_THAT(result, IsOk());
  ASSERT_FALSE(result->warnings.empty());
  EXPECT_THAT(result->warnings[0], HasSubstr("30 of 30 held-out examples are in the training"));
}

TEST_F(NewtonTest, ProgressOnlyRisesAndCanStopIt) {
  double last = 0;
  std::set<std::string> phases;
  const auto watch = [&](const std::string& phase, int64_t done, int64_t total, double fraction) {
    EXPECT_LE(done, total);
    EXPECT_GE(fraction, last);
    EXPECT_LT(fraction, 1);
    last = fraction;
    phases.insert(phase);
    return absl::OkStatus();
  };
  ASSERT_THAT(Run({}, watch), IsOk());
  EXPECT_EQ(phases, (std::set<std::string>{"directions", "curvature", "held-out loss"}));
  for (const std::string& stop : phases) {
    const auto cancel = [&](const std::string& phase, int64_t, int64_t, double) {
      return phase == stop ? absl::CancelledError("stop") : absl::OkStatus();
    };
    EXPECT_THAT(Run({}, cancel), StatusIs(absl::StatusCode::kCancelled)) << stop;
  }
}

TEST_F(NewtonTest, RefusesWhatCannotBe) {
  const NewtonOptions good = options_;
  options_.direction_batch_size = 0;
  ExpectRefused("options.direction_batch_size", "at least 1, got 0");
  options_ = good;
  options_.curvature_batch_size = 111;
  ExpectRefused("options.curvature_batch_size", "need 201 distinct examples");
  options_.variant = NewtonVariant::kSingle;  // which has no second batch
  EXPECT_THAT(Run(), IsOk());
  options_ = good;
  options_.held_out_size = 3;
  ExpectRefused("options.held_out_size", "at least 4, got 3");
  options_ = good;
  options_.damping = -1;
  ExpectRefused("options.damping", "a number >= 0, got -1");
  options_ = good;
  options_.max_steps = 0;
  ExpectRefused("options.max_steps", "expected 1 to 1000, got 0");
  options_ = good;
  options_.curvature = CurvatureKind::kMcFisher;
  ExpectRefused("options.curvature", "GGN or HESSIAN");
  options_ = good;
  Dataset wrong = risk_.data;
  wrong.targets = at::full({200}, 7, at::kLong);
  const absl::Status status = Run(wrong).status();
  EXPECT_EQ(FieldOf(status), "held_out_dataset_id") << status;
  risk_.likelihood = {Likelihood::Kind::kGaussian, 0};
  risk_.data.targets = RandomNormal({200, 3}, 1);
  EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("sigma_noise")));
}

TEST(RegularisedObjectiveTest, WeightDecayIsByDimensionAndItsGradientIsThatOfTheObjective) {
  EmpiricalRisk risk = reference::RiskCases()[0].risk;
  risk.manifest.weight_decay = 0.3;
  risk.manifest.bias_weight_decay = 0.1;
  const at::Tensor decay = WeightDecayVector(risk.network, risk.manifest);
  for (const Parameter& p : risk.network.parameters()) {
    const at::Tensor part = decay.narrow(0, p.offset, p.value.numel());
    EXPECT_TRUE((part == (p.value.dim() <= 1 ? 0.1 : 0.3)).all().item<bool>()) << p.name;
  }
  const auto gradient = RegularisedGradient(risk, reference::AllRows(risk));
  ASSERT_THAT(gradient, IsOk());
  const at::Tensor theta = risk.network.FlatParameters(), v = RandomNormal(theta.sizes(), 9);
  const auto objective = [&](double h) {
    EmpiricalRisk moved = risk;
    const at::Tensor at_h = theta + h * v;
    moved.network = *WithParameters(risk.network, at_h);
    return *moved.MeanLoss() + 0.5 * (decay * at_h.square()).sum().item<double>();
  };
  const double h = 1e-5;
  EXPECT_NEAR((objective(h) - objective(-h)) / (2 * h), at::dot(*gradient, v).item<double>(), 1e-8);
}

}  // namespace
}  // namespace laplaced
