// Fits on several ranks against the same fit on one, in fp64: every structure, strategy and kind of
// curvature.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "server/laplace/fit.h"
#include "tests/distributed/on_ranks.h"
#include "tests/reference/dense.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::RandomNormal;

constexpr int64_t kTraining = 61, kValidation = 10;  // no multiples of the ranks

struct FitCase {
  std::string name;
  std::function<void(FitOptions&)> change;
};

void PrintTo(const FitCase& c, std::ostream* out) { *out << c.name; }

FitOptions Options() {
  FitOptions options;
  options.low_rank.rank = 5;
  options.low_rank.direction_batch_size = 20;
  options.low_rank.curvature_batch_size = 30;
  options.low_rank.lanczos_tolerance = 1e-10;
  options.low_rank.max_products = 300;
  return options;
}

absl::StatusOr<FitResult> Fit(const FitOptions& options, const Ranks& ranks) {
  EmpiricalRisk risk = reference::MakeRisk(reference::TanhMlp(3, 4, 3), Likelihood{},
                                           RandomNormal({kTraining, 3}, 1),
                                           at::arange(kTraining, at::kLong).remainder(3));
  risk.network = *risk.network.Clone();
  risk.ranks = &ranks;
  const Dataset validation{RandomNormal({kValidation, 3}, 9),
                           at::arange(kValidation, at::kLong).remainder(3)};
  risk.data = risk.data.PartOf(ranks);
  if (options.structure == StructureKind::kLastLayer) {
    risk.network = risk.network.Restrict(*ParametersOf(risk.network, options));
  }
  const Dataset mine = validation.PartOf(ranks);
  const CapturePlan plan = FindCapturedParameters(risk.network);
  if (absl::Status status = CheckFit(risk, plan, mine, options); !status.ok()) return status;
  return RunFit(risk, plan, mine, options, nullptr);
}

class FitRanksTest : public ::testing::TestWithParam<FitCase> {};

// Relative to the largest, which may be 0 on both sides.
double Difference(const at::Tensor& a, const at::Tensor& b) {
  if (!a.defined() || a.numel() == 0) return b.defined() && b.numel() > 0 ? 1 : 0;
  return ((a - b).abs().max() / b.abs().max().clamp_min(1e-9)).item<double>();
}

TEST_P(FitRanksTest, GivesTheResultOfOne) {
  FitOptions options = Options();
  GetParam().change(options);
  const bool estimated = options.low_rank.curvature.kind == CurvatureKind::kHessian;
  const auto alone = Fit(options, OneRank());
  ASSERT_TRUE(alone.ok()) << alone.status();
  for (const int64_t size : {2, 4}) {
    const auto all = OnRanks<absl::StatusOr<FitResult>>(
        size, [&](const Ranks& ranks) { return Fit(options, ranks); });
    ASSERT_EQ(all.size(), static_cast<size_t>(size));
    for (const auto& result : all) {
      ASSERT_TRUE(result.ok()) << result.status();
      const CurvatureReport &mine = result->report, &expected = alone->report;
      EXPECT_LT(Difference(mine.eigenvalues, expected.eigenvalues), 1e-8);
      EXPECT_LT(Difference(mine.biased, expected.biased), 1e-8);
      EXPECT_EQ(mine.count, expected.count);
      EXPECT_NEAR(result->mean_train_loss, alone->mean_train_loss, 1e-12);
      EXPECT_EQ(result->posterior.n_data, kTraining);
      EXPECT_NEAR(result->validation_nll_map, alone->validation_nll_map, 1e-12);
      EXPECT_EQ(result->validation_count, alone->validation_count);
      if (estimated) continue;  // traces come from other random vectors
      EXPECT_LT(Difference(mine.standard_errors, expected.standard_errors), 1e-8);
      EXPECT_NEAR(mine.trace, expected.trace, 1e-9 * expected.trace);
      EXPECT_NEAR(mine.residual, expected.residual, 1e-9);
      EXPECT_EQ(result->posterior.prior_precision, alone->posterior.prior_precision);
      EXPECT_NEAR(result->log_marginal_likelihood, alone->log_marginal_likelihood, 1e-6);
      for (size_t i = 0; i < alone->prior_candidates.size(); ++i) {
        EXPECT_NEAR(result->prior_candidates[i].validation_nll,
                    alone->prior_candidates[i].validation_nll, 1e-8);
      }
      for (size_t i = 0; i < expected.blocks.size(); ++i) {
        EXPECT_NEAR(mine.blocks[i].trace, expected.blocks[i].trace, 1e-9 * expected.trace);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, FitRanksTest,
    ::testing::Values(
        FitCase{"two_batch", [](FitOptions&) {}},
        FitCase{"none", [](FitOptions& o) { o.low_rank.debiasing = Debiasing::kNone; }},
        FitCase{"cross_fit", [](FitOptions& o) { o.low_rank.debiasing = Debiasing::kCrossFit; }},
        FitCase{"full_pass", [](FitOptions& o) { o.low_rank.debiasing = Debiasing::kFullPass; }},
        FitCase{"diagonal", [](FitOptions& o) { o.low_rank.residual = ResidualKind::kDiagonal; }},
        FitCase{"mc_fisher",
                [](FitOptions& o) {
                  o.low_rank.curvature = {CurvatureKind::kMcFisher, 2, 5};
                }},
        FitCase{"empirical_fisher",
                [](FitOptions& o) { o.low_rank.curvature.kind = CurvatureKind::kEmpiricalFisher; }},
        FitCase{"hessian",
                [](FitOptions& o) { o.low_rank.curvature.kind = CurvatureKind::kHessian; }},
        FitCase{"a_batch_that_some_ranks_have_nothing_of",
                [](FitOptions& o) {
                  o.low_rank.direction_batch_size = 2;
                  o.low_rank.rank = 2;
                }},
        FitCase{"few_validation_examples", [](FitOptions& o) { o.max_validation_examples = 3; }},
        FitCase{"kfac", [](FitOptions& o) { o.structure = StructureKind::kKfac; }},
        FitCase{"kfac_factors",
                [](FitOptions& o) {
                  o.structure = StructureKind::kKfac;
                  o.kfac_exact = false;
                }},
        FitCase{"last_layer", [](FitOptions& o) { o.structure = StructureKind::kLastLayer; }}),
    [](const auto& info) { return info.param.name; });

TEST(FitRanksStopTest, StopTogetherWhenPreciseEnough) {
  // 200 examples are the fewest that may stop; here all are needed, so ranks end in step.
  FitOptions options = Options();
  options.low_rank.target_relative_standard_error = 0.5;
  const auto counts = OnRanks<int64_t>(3, [&](const Ranks& ranks) {
    const auto result = Fit(options, ranks);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? result->report.count : -1;
  });
  EXPECT_EQ(counts, (std::vector<int64_t>{30, 30, 30}));
}

}  // namespace
}  // namespace laplaced
