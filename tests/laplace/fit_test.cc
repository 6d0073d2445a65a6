#include "server/laplace/fit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/curvature/ggn_operator.h"
#include "server/data/sampler.h"
#include "server/linalg/lanczos.h"
#include "server/model/field_error.h"
#include "tests/reference/dense.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::RandomNormal;
using ::testing::HasSubstr;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

class FitTest : public ::testing::Test {
 protected:
  FitTest() {
    options_.rank = 6;
    options_.direction_batch_size = 30;
    options_.curvature_batch_size = 60;
    options_.lanczos_tolerance = 1e-8;
    options_.prior_precision = 2.0;
  }

  absl::StatusOr<FitResult> Fit(const FitProgressFn& progress = nullptr) {
    if (absl::Status status = CheckFit(risk_, validation_, options_); !status.ok()) return status;
    return RunFit(risk_, FindCapturedParameters(risk_.network), validation_, options_, progress);
  }

  void ExpectRefused(const std::string& field, const std::string& text) {
    const absl::Status status = Fit().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(FieldOf(status), field);
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  }

  EmpiricalRisk risk_ =
      reference::MakeRisk(reference::TanhMlp(4, 6, 3), Likelihood{}, RandomNormal({120, 4}, 1),
                          at::arange(120, at::kLong).remainder(3));
  Dataset validation_;
  FitOptions options_;
};

TEST_F(FitTest, EveryNumberAgreesWithADenseComputation) {
  const auto fit = Fit();
  ASSERT_TRUE(fit.ok()) << fit.status();
  const auto batches = DisjointBatches(120, {30, 60}, 0);
  const at::Tensor x = risk_.data.inputs;
  const at::Tensor g1 =
      reference::Ggn(risk_.network, risk_.likelihood, x.index_select(0, batches[0]));
  const at::Tensor g2 =
      reference::Ggn(risk_.network, risk_.likelihood, x.index_select(0, batches[1]));
  const at::Tensor top = std::get<0>(at::linalg_eigh(g1, "L")).flip(0).narrow(0, 0, 6);
  EXPECT_LT(Max(fit->biased_curvature - top), 1e-9);
  const at::Tensor u = fit->posterior.directions;
  EXPECT_LT(Max(fit->posterior.curvature - (u * at::mm(g2, u)).sum(0)), 1e-12);
  const double trace = g2.trace().item<double>();
  EXPECT_NEAR(fit->trace, trace, 1e-11);
  const int64_t p = risk_.network.n_parameters();
  EXPECT_NEAR(fit->posterior.residual,
              (trace - fit->posterior.curvature.sum().item<double>()) / (p - 6), 1e-12);
  EXPECT_EQ(fit->posterior.n_data, 120);

  const at::Tensor precision = reference::Precision(fit->posterior);
  const at::Tensor theta = risk_.network.FlatParameters();
  const double sum_loss = -at::log_softmax(risk_.network.Forward(x), 1)
                               .gather(1, risk_.data.targets.unsqueeze(1))
                               .sum()
                               .item<double>();
  const double evidence = -sum_loss - theta.square().sum().item<double>() +
                          0.5 * p * std::log(2.0) - 0.5 * at::logdet(precision).item<double>();
  EXPECT_NEAR(fit->log_marginal_likelihood, evidence, 1e-8 * std::abs(evidence));
  EXPECT_TRUE(fit->warnings.empty());
}

TEST_F(FitTest, WithoutDebiasingTheCurvatureIsTheRitzValues) {
  options_.debiasing = Debiasing::kNone;
  const auto fit = Fit();
  ASSERT_TRUE(fit.ok());
  EXPECT_TRUE(at::equal(fit->posterior.curvature, fit->biased_curvature));
}

TEST_F(FitTest, TheDirectionBatchOverestimatesWhatAnIndependentBatchMeasures) {
  double biased = 0, debiased = 0;
  options_.direction_batch_size = 8;
  options_.curvature_batch_size = 100;
  for (options_.seed = 0; options_.seed < 10; ++options_.seed) {
    const auto fit = Fit();
    ASSERT_TRUE(fit.ok());
    biased += fit->biased_curvature[0].item<double>();
    debiased += fit->posterior.curvature[0].item<double>();
  }
  EXPECT_GT(biased, 1.2 * debiased);
}

TEST_F(FitTest, TheSameSeedGivesTheSameDigits) {
  const auto first = Fit(), again = Fit();
  options_.seed = 1;
  const auto other = Fit();
  EXPECT_TRUE(at::equal(first->posterior.directions, again->posterior.directions));
  EXPECT_TRUE(at::equal(first->posterior.curvature, again->posterior.curvature));
  EXPECT_FALSE(at::equal(first->posterior.curvature, other->posterior.curvature));
}

TEST_F(FitTest, PriorPrecisionComesFromWeightDecayOrValidationData) {
  options_.prior_precision = absl::nullopt;
  risk_.manifest.n_data = 1000;
  risk_.manifest.weight_decay = 0.01;
  const auto decay = Fit();
  ASSERT_TRUE(decay.ok()) << decay.status();
  EXPECT_DOUBLE_EQ(decay->posterior.prior_precision, 10);
  EXPECT_EQ(decay->posterior.n_data, 1000);

  validation_ = {RandomNormal({50, 4}, 8), at::arange(50, at::kLong).remainder(3)};
  const auto tuned = Fit();
  ASSERT_TRUE(tuned.ok());
  EXPECT_EQ(tuned->prior_candidates.size(), 57u);
  EXPECT_DOUBLE_EQ(tuned->ood_prior_precision, 10);
  EXPECT_LE(
      PredictiveNll(tuned->posterior, risk_.likelihood, tuned->validation),
      PredictiveNll(tuned->posterior.WithPriorPrecision(10), risk_.likelihood, tuned->validation) +
          1e-12);
  EXPECT_EQ(tuned->validation.size(), 50);
}

TEST_F(FitTest, CancellingStopsAtTheNextStepOfAnyPhase) {
  for (const std::string phase : {"training loss", "directions", "curvature", "validation"}) {
    validation_ = {RandomNormal({10, 4}, 8), at::zeros({10}, at::kLong)};
    const auto fit = Fit([&](const std::string& now, int64_t, int64_t, double) {
      return now == phase ? absl::CancelledError("stop") : absl::OkStatus();
    });
    EXPECT_EQ(fit.status().code(), absl::StatusCode::kCancelled) << phase;
  }
}

TEST_F(FitTest, ProgressNeverFalls) {
  double last = 0;
  const auto fit = Fit([&](const std::string&, int64_t, int64_t, double fraction) {
    EXPECT_GE(fraction, last);
    EXPECT_LE(fraction, 1);
    last = fraction;
    return absl::OkStatus();
  });
  ASSERT_TRUE(fit.ok());
  EXPECT_GT(last, 0.7);
}

TEST_F(FitTest, ImpossibleSizesAreRefusedBeforeWorkStarts) {
  options_.rank = 1000;
  ExpectRefused("options.rank", "expected 1 to 51");
  options_.rank = 6;
  options_.curvature_batch_size = 100;
  ExpectRefused("options.curvature_batch_size", "need 130 distinct examples");
  options_.debiasing = Debiasing::kNone;
  options_.direction_batch_size = 121;
  ExpectRefused("options.direction_batch_size", "the training data has 120");
}

TEST_F(FitTest, ARankThatMemoryCannotHoldIsRefused) {
  options_.rank = 20;
  options_.memory_limit_bytes = 51 * 8 * 40;
  ExpectRefused("options.rank", "at most 14 would fit");
  options_.rank = 14;
  EXPECT_TRUE(Fit().ok());
}

TEST_F(FitTest, NoCurvatureAtAllIsAnErrorNotAnEmptyPosterior) {
  risk_.data.inputs.fill_(0);
  for (const Parameter& p : risk_.network.parameters()) {
    at::NoGradGuard no_grad;
    if (p.name == "b2") at::Tensor(p.value).copy_(at::tensor({1e4, 0.0, 0.0}, at::kDouble));
  }
  risk_.data.targets.fill_(0);
  const absl::Status status = Fit().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("curvature of the direction batch is zero"));
}

TEST_F(FitTest, UnusableOptionsAreRefused) {
  options_.prior_precision = -1.0;
  ExpectRefused("options.prior_precision", "expected a finite number > 0, got -1");
  options_.prior_precision = absl::nullopt;
  ExpectRefused("options.prior_precision", "is required");
  options_.prior_precision = 1;
  options_.lanczos_tolerance = 2;
  ExpectRefused("options.lanczos_tolerance", "(0, 1)");
}

TEST_F(FitTest, UnusableDataAreRefused) {
  risk_.data.targets = at::arange(120, at::kLong).remainder(4);
  ExpectRefused("train_dataset_id", "row 3 has label 3, expected 0 to 2");
  risk_.data.targets = at::zeros({120}, at::kLong);
  risk_.data.inputs = RandomNormal({120, 5}, 1);
  ExpectRefused("train_dataset_id", "examples have shape [5], expected [4]");
  risk_.data.inputs = RandomNormal({120, 4}, 1);
  validation_ = {at::zeros({3, 4}, at::kByte), at::zeros({3}, at::kLong)};
  ExpectRefused("validation_dataset_id", "uint8_scale");
}

TEST_F(FitTest, ALossThatIsNotFiniteNamesTheExample) {
  risk_.data.inputs[17][0] = INFINITY;
  risk_.data.inputs[17][1] = -INFINITY;
  const absl::Status status = Fit().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("training example 17"));
}

}  // namespace
}  // namespace laplaced
