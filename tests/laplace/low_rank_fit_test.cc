// Debiasing strategies and residuals against dense computations, in fp64.
#include "server/laplace/low_rank_fit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "server/data/sampler.h"
#include "tests/reference/dense.h"
#include "tests/reference/networks.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using reference::RandomNormal;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

class LowRankFitTest : public ::testing::Test {
 protected:
  LowRankFitTest() {
    options_.rank = 5;
    options_.direction_batch_size = 20;
    options_.curvature_batch_size = 30;
    options_.lanczos_tolerance = 1e-10;
    options_.max_products = 400;
    options_.residual = ResidualKind::kDiagonal;
  }

  std::shared_ptr<const LowRankFit> Fit() {
    LowRankCost cost;
    auto fit = FitLowRank(risk_, plan_, options_, {}, &cost, &warnings_);
    EXPECT_TRUE(fit.ok()) << fit.status();
    return *fit;
  }

  // Dense mean curvature of some rows.
  at::Tensor Dense(const at::Tensor& rows) const {
    EmpiricalRisk part = risk_;
    part.data = risk_.data.Select(rows);
    return options_.curvature.kind == CurvatureKind::kHessian
               ? reference::Hessian(part)
               : reference::Curvature(part, options_.curvature);
  }
  std::vector<at::Tensor> Batches() const {
    return DisjointBatches(60, {20, 30, 10}, options_.seed);
  }
  static at::Tensor Along(const at::Tensor& dense, const at::Tensor& u) {
    return (u * at::mm(dense, u)).sum(0);
  }
  static at::Tensor Top(const at::Tensor& dense, int64_t k) {
    return std::get<0>(at::linalg_eigh(dense, "L")).flip(0).narrow(0, 0, k);
  }

  EmpiricalRisk risk_ =
      reference::MakeRisk(reference::TanhMlp(3, 4, 3), Likelihood{}, RandomNormal({60, 3}, 1),
                          at::arange(60, at::kLong).remainder(3));
  CapturePlan plan_ = FindCapturedParameters(risk_.network);
  LowRankOptions options_;
  std::vector<std::string> warnings_;
};

TEST_F(LowRankFitTest, WithoutDebiasingTheCurvatureIsTheRitzValues) {
  options_.debiasing = Debiasing::kNone;
  const auto fit = Fit();
  const CurvatureReport report = fit->Report();
  EXPECT_LT(Max(report.biased - Top(Dense(Batches()[0]), 5)), 1e-9);
  EXPECT_TRUE(at::equal(report.eigenvalues, report.biased));
  EXPECT_NEAR(report.trace, Dense(Batches()[0]).trace().item<double>(), 1e-12);
  EXPECT_EQ(fit->WithData(risk_, plan_, {}, nullptr).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(LowRankFitTest, TwoBatchesMeasureOnTheSecond) {
  const auto fit = Fit();
  const CurvatureReport report = fit->Report();
  const at::Tensor dense = Dense(Batches()[1]);
  EXPECT_LT(Max(report.eigenvalues - Along(dense, fit->parts().directions)), 1e-12);
  EXPECT_NEAR(report.trace, dense.trace().item<double>(), 1e-12);
  EXPECT_EQ(report.count, 30);
}

TEST_F(LowRankFitTest, CrossFittingSwapsTheRolesAndEachSetCountsHalf) {
  options_.debiasing = Debiasing::kCrossFit;
  const auto fit = Fit();
  const CurvatureReport report = fit->Report();
  const at::Tensor u = fit->parts().directions;
  ASSERT_EQ(u.size(1), 10);
  const at::Tensor first = Dense(Batches()[0]), second = Dense(Batches()[1]);
  EXPECT_LT(Max(report.biased - at::cat({Top(first, 5), Top(second, 5)})), 1e-9);
  const at::Tensor u1 = u.narrow(1, 0, 5), u2 = u.narrow(1, 5, 5);
  EXPECT_LT(Max(report.eigenvalues - at::cat({Along(second, u1), Along(first, u2)})), 1e-12);
  const at::Tensor both = Dense(at::cat({Batches()[0], Batches()[1]}));
  EXPECT_NEAR(report.trace, both.trace().item<double>(), 1e-12);
  // The structure's H along U: 1/2 U1 L1 U1' + 1/2 U2 L2 U2' + residual.
  const at::Tensor h =
      0.5 * at::mm(u1 * Along(second, u1), u1.t()) + 0.5 * at::mm(u2 * Along(first, u2), u2.t());
  const at::Tensor residual = (both.diagonal() - h.diagonal()).clamp_min(0);
  const at::Tensor precision = 60 * (h + at::diag(residual)) + 2 * at::eye(31, at::kDouble);
  EXPECT_NEAR(fit->MakeStructure({})->LogDetPrecision({60, 2}),
              at::logdet(precision).item<double>(), 1e-9);
}

TEST_F(LowRankFitTest, AFullPassGivesTheCurvatureOfTheWholeTrainingSetExactly) {
  options_.debiasing = Debiasing::kFullPass;
  const auto fit = Fit();
  const CurvatureReport report = fit->Report();
  const at::Tensor dense = Dense(at::arange(60, at::kLong)), u = fit->parts().directions;
  EXPECT_LT(Max(report.eigenvalues - Along(dense, u)), 1e-12);
  EXPECT_NEAR(report.trace, dense.trace().item<double>(), 1e-12);
  EXPECT_EQ(report.count, 60);
  // The identity that it rests on, with the Ritz values in the part of B1.
  const at::Tensor rest = Dense(at::cat({Batches()[1], Batches()[2]}));
  EXPECT_LT(Max(report.eigenvalues - (20.0 / 60 * report.biased + 40.0 / 60 * Along(rest, u))),
            1e-9);
}

TEST_F(LowRankFitTest, EveryResidualIsWhatTheDirectionsLeaveOver) {
  const at::Tensor dense = Dense(Batches()[1]);
  for (const auto kind : {ResidualKind::kNone, ResidualKind::kIsotropic, ResidualKind::kLayerwise,
                          ResidualKind::kDiagonal}) {
    options_.residual = kind;
    const auto fit = Fit();
    const at::Tensor u = fit->parts().directions, along = Along(dense, u);
    const at::Tensor left = dense.diagonal() - at::mm(u * along, u.t()).diagonal();
    at::Tensor h = at::mm(u * along, u.t());
    if (kind == ResidualKind::kIsotropic) {
      h = h + left.sum() / (31 - 5) * (at::eye(31, at::kDouble) - at::mm(u, u.t()));
    } else if (kind == ResidualKind::kLayerwise) {
      at::Tensor rho = at::zeros({31}, at::kDouble);
      for (const Parameter& p : risk_.network.parameters()) {
        const int64_t n = p.value.numel();
        rho.narrow(0, p.offset, n)
            .copy_(left.narrow(0, p.offset, n).mean().clamp_min(0).expand({n}));
      }
      h = h + at::diag(rho);
    } else if (kind == ResidualKind::kDiagonal) {
      h = h + at::diag(left.clamp_min(0));
    }
    const at::Tensor precision = 60 * h + 2 * at::eye(31, at::kDouble);
    EXPECT_NEAR(fit->MakeStructure({})->LogDetPrecision({60, 2}),
                at::logdet(precision).item<double>(), 1e-9);
    EXPECT_NEAR(fit->Report().residual_share,
                left.sum().item<double>() / dense.trace().item<double>(), 1e-10);
  }
}

TEST_F(LowRankFitTest, EveryKindOfCurvatureIsMeasuredAlongItsOwnDirections) {
  for (const auto kind : {CurvatureKind::kMcFisher, CurvatureKind::kEmpiricalFisher}) {
    options_.curvature = {kind, 2, 7};
    const auto fit = Fit();
    // Draws belong to rows of the whole data set: measured through the product's own statistics.
    MeasureOptions measure;
    measure.curvature = options_.curvature;
    const auto expected =
        MeasureCurvature(risk_, plan_, Batches()[1], fit->parts().directions, measure);
    EXPECT_LT(Max(fit->Report().eigenvalues - expected->along.mean), 1e-13);
    if (kind == CurvatureKind::kEmpiricalFisher) {
      EXPECT_LT(Max(fit->Report().biased - Top(Dense(Batches()[0]), 5)), 1e-9);
    }
  }
}

TEST_F(LowRankFitTest, NegativeCurvatureOfTheHessianCountsAsZeroAndIsCounted) {
  options_.curvature.kind = CurvatureKind::kHessian;
  options_.residual = ResidualKind::kNone;
  options_.rank = 20;
  int64_t clipped = 0;
  for (options_.seed = 0; options_.seed < 5; ++options_.seed) {
    const auto fit = Fit();
    const at::Tensor along = Along(Dense(Batches()[1]), fit->parts().directions);
    const CurvatureReport report = fit->Report();
    EXPECT_LT(Max(report.eigenvalues - along.clamp_min(0)), 1e-10);
    EXPECT_EQ(report.clipped, (along < -1e-9).sum().item<int64_t>());
    EXPECT_GT(report.biased.min().item<double>(), 0);
    clipped += report.clipped;
  }
  EXPECT_GT(clipped, 0);
}

TEST_F(LowRankFitTest, MoreDataJoinAsIfTheyHadBeenThere) {
  for (const auto strategy : {Debiasing::kTwoBatch, Debiasing::kCrossFit, Debiasing::kFullPass}) {
    options_.debiasing = strategy;
    options_.curvature_batch_size = strategy == Debiasing::kFullPass ? 0 : 30;
    const auto fit = Fit();
    EmpiricalRisk more = reference::MakeRisk(risk_.network, Likelihood{}, RandomNormal({25, 3}, 9),
                                             at::zeros({25}, at::kLong));
    const auto updated = fit->WithData(more, plan_, {}, nullptr);
    ASSERT_TRUE(updated.ok()) << updated.status();
    const CurvatureReport report = (*updated)->Report();
    // The same directions, measured on old and new data together.
    EmpiricalRisk all = risk_;
    all.data = {at::cat({risk_.data.inputs, more.data.inputs}),
                at::cat({risk_.data.targets, more.data.targets})};
    const at::Tensor extra = at::arange(60, 85, at::kLong);
    const at::Tensor u = fit->parts().directions;
    const auto on = [&](const at::Tensor& rows, const at::Tensor& directions) {
      MeasureOptions measure;
      measure.diagonal = true;
      return *MeasureCurvature(all, plan_, at::cat({rows, extra}), directions.contiguous(),
                               measure);
    };
    if (strategy == Debiasing::kTwoBatch) {
      const CurvatureStatistics expected = on(Batches()[1], u);
      EXPECT_LT(Max(report.eigenvalues - expected.along.mean), 1e-14);
      EXPECT_LT(Max(report.standard_errors - expected.along.StandardError()), 1e-14);
      EXPECT_NEAR(report.trace, expected.total.mean[0].item<double>(), 1e-13);
      EXPECT_EQ(report.count, 55);
    } else if (strategy == Debiasing::kCrossFit) {
      EXPECT_LT(Max(report.eigenvalues - at::cat({on(Batches()[1], u.narrow(1, 0, 5)).along.mean,
                                                  on(Batches()[0], u.narrow(1, 5, 5)).along.mean})),
                1e-14);
      EXPECT_EQ(report.count, 75);  // 20 + 30 + 25: every example once
      const auto read = LowRankFit::FromTensors(
          (*updated)->ToTensors(), strategy, options_.residual, false, BlockSizes(risk_.network));
      ASSERT_TRUE(read.ok()) << read.status();
      EXPECT_EQ((*read)->Report().trace, report.trace);
    } else {
      const at::Tensor every = at::arange(60, at::kLong);
      EXPECT_LT(Max(report.eigenvalues - on(every, u).along.mean), 1e-13);
      EXPECT_EQ(report.count, 85);
    }
  }
}

TEST_F(LowRankFitTest, TensorsHoldEverything) {
  for (const auto strategy :
       {Debiasing::kNone, Debiasing::kTwoBatch, Debiasing::kCrossFit, Debiasing::kFullPass}) {
    options_.debiasing = strategy;
    const auto fit = Fit();
    const auto read = LowRankFit::FromTensors(fit->ToTensors(), strategy, options_.residual, true,
                                              BlockSizes(risk_.network));
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_TRUE(at::equal((*read)->Report().eigenvalues, fit->Report().eigenvalues));
    EXPECT_TRUE(at::equal((*read)->Report().standard_errors, fit->Report().standard_errors));
    TensorMap tensors = fit->ToTensors();
    for (const auto& item : fit->ToTensors()) {
      const std::string& name = item.first;
      if (name.find("statistics.1.") == 0 && strategy == Debiasing::kFullPass) continue;
      TensorMap without = tensors;
      without.erase(name);
      EXPECT_EQ(LowRankFit::FromTensors(without, strategy, options_.residual, true,
                                        BlockSizes(risk_.network))
                    .status()
                    .code(),
                absl::StatusCode::kDataLoss)
          << name;
    }
  }
}

TEST_F(LowRankFitTest, ScalingIsWhatAnotherNoiseMakesOfTheCurvature) {
  risk_.likelihood = {Likelihood::Kind::kGaussian, 1.0};
  risk_.data.targets = RandomNormal({60, 3}, 5);
  const auto unit = Fit();
  risk_.likelihood.sigma_noise = 0.5;
  const auto half = Fit();
  const CurvatureReport scaled = unit->ScaledBy(4)->Report(), expected = half->Report();
  EXPECT_LT(Max(scaled.eigenvalues - expected.eigenvalues), 1e-7);
  EXPECT_LT(Max(scaled.standard_errors - expected.standard_errors), 1e-7);
  EXPECT_NEAR(scaled.trace, expected.trace, 1e-10);
  EXPECT_NEAR(scaled.residual, expected.residual, 1e-9);
}

TEST_F(LowRankFitTest, AMemoryBudgetChangesTheRestartsAndNotTheDirections) {
  const auto usual = Fit();
  options_.lanczos_memory_bytes = 11 * 8 * 31;  // rank + 6 vectors
  const auto tight = Fit();
  options_.lanczos_memory_bytes = 1 << 20;
  const auto wide = Fit();
  EXPECT_LT(Max(tight->Report().biased - usual->Report().biased), 1e-9);
  EXPECT_LT(Max(wide->Report().biased - usual->Report().biased), 1e-9);
}

TEST_F(LowRankFitTest, ASearchGoesOnWithAnotherMemoryBudget) {
  options_.lanczos_memory_bytes = 20 * 8 * 31;  // 16 vectors and work space
  const auto through = Fit();
  const test_support::TempFolder folder;
  const auto fit = [&](bool resume, int products) {
    LanczosCheckpoint::Options keep;
    keep.folder = folder.path() + "/checkpoint";
    keep.fingerprint = "a fit";
    keep.interval = std::chrono::seconds(0);
    keep.resume = resume;
    LanczosCheckpoint checkpoint(keep);
    LowRankProgress progress;
    progress.checkpoint = &checkpoint;
    int calls = 0;
    progress.directions = [&](int64_t, int64_t) {
      return ++calls == products ? absl::CancelledError("power cut") : absl::OkStatus();
    };
    LowRankCost cost;
    return FitLowRank(risk_, plan_, options_, progress, &cost, &warnings_);
  };
  // More: as many vectors as before, so the same bits.
  EXPECT_TRUE(absl::IsCancelled(fit(false, 9).status()));
  options_.lanczos_memory_bytes = 1 << 20;
  const auto wide = fit(true, 0);
  ASSERT_TRUE(wide.ok()) << wide.status();
  EXPECT_TRUE(at::equal((*wide)->Report().biased, through->Report().biased));
  // Less than the 8 vectors that there are.
  options_.lanczos_memory_bytes = 20 * 8 * 31;
  EXPECT_TRUE(absl::IsCancelled(fit(false, 9).status()));
  options_.lanczos_memory_bytes = 11 * 8 * 31;
  const auto tight = fit(true, 0);
  ASSERT_TRUE(tight.ok()) << tight.status();
  EXPECT_LT(Max((*tight)->Report().biased - through->Report().biased), 1e-9);
}

TEST_F(LowRankFitTest, FewerDirectionsThanAskedForSayWhy) {
  options_.rank = 12;
  options_.max_products = 4;
  EXPECT_EQ(Fit()->parts().directions.size(1), 4);
  EXPECT_THAT(warnings_, Contains("max_products 4 allowed only 4 of the 12 directions asked for"));
  EXPECT_THAT(warnings_, Not(Contains(HasSubstr("has rank"))));

  warnings_.clear();
  options_.curvature.kind = CurvatureKind::kHessian;
  options_.max_products = 11;
  const int64_t positive = Fit()->parts().directions.size(1);
  ASSERT_LT(positive, 11) << "some of the pairs are negative";
  EXPECT_THAT(warnings_, Contains(AllOf(HasSubstr("max_products 11 allowed only 11 of the 12"),
                                        HasSubstr("of them with positive curvature"))));

  // One example with three classes: no more than two directions exist.
  warnings_.clear();
  options_.curvature.kind = CurvatureKind::kGgn;
  options_.max_products = 400;
  options_.direction_batch_size = 1;
  EXPECT_EQ(Fit()->parts().directions.size(1), 2);
  EXPECT_THAT(warnings_, Contains("the curvature of the direction batch has rank 2, less than the "
                                  "12 directions asked for"));
}

}  // namespace
}  // namespace laplaced
