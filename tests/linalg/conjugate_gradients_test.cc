// Conjugate gradients and the debiased iterate against dense solves, in fp64.
#include "server/linalg/conjugate_gradients.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "tests/reference/dense.h"
#include "tests/reference/networks.h"
#include "tests/support/status_matchers.h"

namespace laplaced {
namespace {

using reference::MatrixOperator;
using reference::RandomNormal;
using test_support::IsOk;
using test_support::StatusIs;
using ::testing::HasSubstr;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

// Symmetric with the given eigenvalues.
at::Tensor WithSpectrum(const std::vector<double>& values, uint64_t seed) {
  const auto n = static_cast<int64_t>(values.size());
  const at::Tensor q = std::get<0>(at::linalg_qr(RandomNormal({n, n}, seed)));
  return at::mm(q * at::tensor(values, at::kDouble), q.t());
}

const at::Tensor kPositive = WithSpectrum({9, 7, 5, 4, 2.5, 2, 1.5, 1}, 1);
const at::Tensor kGradient = RandomNormal({8}, 2);

double Quadratic(const at::Tensor& a, const at::Tensor& g, const at::Tensor& x) {
  return (at::dot(g, x) + 0.5 * at::dot(x, at::mv(a, x))).item<double>();
}

TEST(ConjugateGradientsTest, AsManyStepsAsDimensionsSolveTheSystemWithDampingToo) {
  for (const double damping : {0.0, 0.3}) {
    CgOptions options;
    options.damping = damping;
    const auto result = ConjugateGradients(MatrixOperator(kPositive), kGradient, options);
    ASSERT_THAT(result, IsOk());
    const at::Tensor a = kPositive + damping * at::eye(8, at::kDouble);
    const at::Tensor exact = -at::mv(at::inverse(a), kGradient);
    EXPECT_GE(result->path.size(), 8);
    EXPECT_LT(Max(result->path.Iterate(8) - exact), 1e-10) << damping;
    // Conjugate with respect to what was solved, and the numbers are those of their definitions.
    const at::Tensor d = result->path.directions.narrow(1, 0, 8);
    const at::Tensor products = at::mm(d.t(), at::mm(a, d));
    EXPECT_LT(Max(products - products.diag().diag()), 1e-9 * Max(products)) << damping;
    for (int64_t k = 0; k < 8; ++k) {
      const DirectionStep& step = result->path.steps[k];
      const at::Tensor at_iterate = kGradient + at::mv(a, result->path.Iterate(k));
      EXPECT_NEAR(step.slope, at::dot(d.select(1, k), at_iterate).item<double>(), 1e-9);
      EXPECT_LT(step.slope, 0);
      EXPECT_NEAR(step.curvature, products[k][k].item<double>(), 1e-9);
      EXPECT_FALSE(step.skipped);
    }
  }
}

TEST(ConjugateGradientsTest, EveryIterateMinimisesOverTheKrylovSpaceSoFar) {
  CgOptions options;
  options.max_steps = 3;
  const auto result = ConjugateGradients(MatrixOperator(kPositive), kGradient, options);
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->end, CgEnd::kSteps);
  EXPECT_EQ(result->products, 3);
  ASSERT_EQ(result->path.size(), 3);
  const at::Tensor ag = at::mv(kPositive, kGradient);
  const at::Tensor krylov = at::stack({kGradient, ag, at::mv(kPositive, ag)}, 1);
  for (int64_t k = 1; k <= 3; ++k) {
    const at::Tensor v = krylov.narrow(1, 0, k);
    const at::Tensor exact = -at::mv(
        v, at::mv(at::inverse(at::mm(v.t(), at::mm(kPositive, v))), at::mv(v.t(), kGradient)));
    EXPECT_LT(Max(result->path.Iterate(k) - exact), 1e-10) << k;
  }
}

TEST(ConjugateGradientsTest, EndsAtTheTolerance) {
  CgOptions options;
  options.tolerance = 0.05;
  const auto result = ConjugateGradients(MatrixOperator(kPositive), kGradient, options);
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->end, CgEnd::kResidual);
  const double norm = kGradient.norm().item<double>();
  const auto residual = [&](int64_t k) {
    return (kGradient + at::mv(kPositive, result->path.Iterate(k))).norm().item<double>();
  };
  const int64_t k = result->path.size();
  ASSERT_LT(k, 8);
  EXPECT_LE(residual(k), 0.05 * norm);
  EXPECT_GT(residual(k - 1), 0.05 * norm);
  EXPECT_NEAR(result->residual, residual(k), 1e-12);
}

TEST(ConjugateGradientsTest, AZeroGradientHasAnEmptyPath) {
  const at::Tensor zero = at::zeros({8}, at::kDouble);
  const auto result = ConjugateGradients(MatrixOperator(kPositive), zero, {});
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->path.size(), 0);
  EXPECT_EQ(result->products, 0);
  EXPECT_EQ(result->end, CgEnd::kResidual);
  EXPECT_TRUE(at::equal(result->path.Iterate(0), zero));
  const auto along = MinimiseAlong(MatrixOperator(kPositive), zero, result->path.directions, 0);
  ASSERT_THAT(along, IsOk());
  EXPECT_EQ(along->size(), 0);
}

TEST(ConjugateGradientsTest, EndsBeforeADirectionWithoutPositiveCurvature) {
  const at::Tensor indefinite = WithSpectrum({4, 3, 2, 1, 0.5, -0.5, -2, -3}, 3);
  const auto result = ConjugateGradients(MatrixOperator(indefinite), kGradient, {});
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->end, CgEnd::kIndefinite);
  EXPECT_EQ(result->path.directions.size(1), result->path.size());
  EXPECT_EQ(result->products, result->path.size() + 1);
  for (const DirectionStep& step : result->path.steps) EXPECT_GT(step.curvature, 0);
  // Damped enough, it is definite.
  CgOptions options;
  options.damping = 4;
  const auto damped = ConjugateGradients(MatrixOperator(indefinite), kGradient, options);
  ASSERT_THAT(damped, IsOk());
  const at::Tensor a = indefinite + 4 * at::eye(8, at::kDouble);
  EXPECT_LT(Max(damped->path.Iterate(damped->path.size()) + at::mv(at::inverse(a), kGradient)),
            1e-9);
}

// A quadratic that is flat along part of the gradient has no minimum: the products there are zero.
TEST(ConjugateGradientsTest, ANullDirectionIsNotDividedBy) {
  const at::Tensor flat = WithSpectrum({3, 0, 0, 0, 0, 0, 0, 0}, 4);
  const auto result = ConjugateGradients(MatrixOperator(flat), kGradient, {});
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->end, CgEnd::kIndefinite);
  EXPECT_TRUE(result->path.Iterate(result->path.size()).isfinite().all().item<bool>());
}

TEST(MinimiseAlongTest, OnTheSameQuadraticIsConjugateGradients) {
  for (const double damping : {0.0, 0.3}) {
    CgOptions options;
    options.damping = damping;
    options.max_steps = 6;
    const MatrixOperator op(kPositive);
    const auto plain = ConjugateGradients(op, kGradient, options);
    ASSERT_THAT(plain, IsOk());
    const auto debiased = MinimiseAlong(op, kGradient, plain->path.directions, damping);
    ASSERT_THAT(debiased, IsOk());
    ASSERT_EQ(debiased->size(), 6);
    for (int64_t k = 0; k <= 6; ++k) {
      EXPECT_LT(Max(debiased->Iterate(k) - plain->path.Iterate(k)), 1e-11) << k;
    }
    for (size_t k = 0; k < 6; ++k) {
      EXPECT_NEAR(debiased->steps[k].slope, plain->path.steps[k].slope, 1e-10);
      EXPECT_NEAR(debiased->steps[k].curvature, plain->path.steps[k].curvature, 1e-10);
    }
    EXPECT_EQ(debiased->skipped(), 0);
  }
}

// Directions of one quadratic, minimised along on another: each step is the exact minimum along its
// direction from where the one before ended, and so the quadratic only falls.
TEST(MinimiseAlongTest, EveryStepIsTheMinimumOfTheSecondQuadraticFromTheCurrentIterate) {
  const double damping = 0.2;
  const at::Tensor second = WithSpectrum({8, 6, 5, 3, 3, 2, 1, 0.5}, 9), g = RandomNormal({8}, 10);
  const auto first = ConjugateGradients(MatrixOperator(kPositive), kGradient, {});
  ASSERT_THAT(first, IsOk());
  const auto along = MinimiseAlong(MatrixOperator(second), g, first->path.directions, damping);
  ASSERT_THAT(along, IsOk());
  const at::Tensor a = second + damping * at::eye(8, at::kDouble);
  double before = 0;
  for (int64_t k = 0; k < along->size(); ++k) {
    const at::Tensor d = along->directions.select(1, k), x = along->Iterate(k);
    const DirectionStep& step = along->steps[k];
    EXPECT_NEAR(step.slope, at::dot(d, g + at::mv(a, x)).item<double>(), 1e-10);
    EXPECT_NEAR(step.curvature, at::dot(d, at::mv(a, d)).item<double>(), 1e-10);
    const at::Tensor next = along->Iterate(k + 1);
    EXPECT_NEAR(at::dot(d, g + at::mv(a, next)).item<double>(), 0, 1e-9);
    const double after = Quadratic(a, g, next);
    EXPECT_LE(after, before + 1e-12);
    before = after;
  }
}

TEST(MinimiseAlongTest, SkipsAndCountsDirectionsThatHaveNoPositiveCurvature) {
  const at::Tensor second = at::diag(at::tensor({2.0, -1.0, 0.0, 4.0}, at::kDouble));
  const at::Tensor g = at::tensor({1.0, 1.0, 1.0, 1.0}, at::kDouble);
  const auto along = MinimiseAlong(MatrixOperator(second), g, at::eye(4, at::kDouble), 0);
  ASSERT_THAT(along, IsOk());
  EXPECT_EQ(along->skipped(), 2);
  EXPECT_TRUE(along->steps[1].skipped);
  EXPECT_EQ(along->steps[1].curvature, -1);
  EXPECT_TRUE(along->steps[2].skipped);
  const at::Tensor expected = at::tensor({-0.5, 0.0, 0.0, -0.25}, at::kDouble);
  EXPECT_LT(Max(along->Iterate(4) - expected), 1e-15);
  // Damping makes all of them positive.
  const auto damped = MinimiseAlong(MatrixOperator(second), g, at::eye(4, at::kDouble), 2);
  ASSERT_THAT(damped, IsOk());
  EXPECT_EQ(damped->skipped(), 0);
  EXPECT_NEAR(damped->Iterate(4)[1].item<double>(), -1, 1e-15);
}

TEST(ConjugateGradientsTest, CallersCanStopARun) {
  CgOptions options;
  options.on_step = [](int64_t steps) {
    return steps == 2 ? absl::CancelledError("enough") : absl::OkStatus();
  };
  const MatrixOperator op(kPositive);
  EXPECT_THAT(ConjugateGradients(op, kGradient, options), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(MinimiseAlong(op, kGradient, at::eye(8, at::kDouble), 0, options.on_step),
              StatusIs(absl::StatusCode::kCancelled));
}

TEST(ConjugateGradientsTest, RefusesWhatIsNoProblem) {
  const MatrixOperator op(kPositive);
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(ConjugateGradients(op, RandomNormal({7}, 1), {}), StatusIs(kInvalid));
  CgOptions negative;
  negative.damping = -1;
  EXPECT_THAT(ConjugateGradients(op, kGradient, negative),
              StatusIs(kInvalid, HasSubstr("damping >= 0, got -1")));
  CgOptions none;
  none.max_steps = 0;
  EXPECT_THAT(ConjugateGradients(op, kGradient, none), StatusIs(kInvalid));
  EXPECT_THAT(MinimiseAlong(op, kGradient, at::eye(7, at::kDouble), 0), StatusIs(kInvalid));
  at::Tensor infinite = kGradient.clone();
  infinite[3] = std::numeric_limits<double>::infinity();
  EXPECT_THAT(ConjugateGradients(op, infinite, {}),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  const MatrixOperator nan(kPositive * std::numeric_limits<double>::quiet_NaN());
  EXPECT_THAT(ConjugateGradients(nan, kGradient, {}),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

}  // namespace
}  // namespace laplaced
