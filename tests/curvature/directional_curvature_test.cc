// Oracle 3 (invariance) and 11 (debiasing, exactly and without statistics), in fp64.
#include "server/curvature/directional_curvature.h"

#include <gtest/gtest.h>

#include <vector>

#include "server/curvature/ggn_operator.h"
#include "server/linalg/lanczos.h"
#include "tests/reference/dense.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::RandomNormal;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

class DirectionalCurvatureTest : public ::testing::Test {
 protected:
  static constexpr int64_t kExamples = 7;

  at::Tensor Rows(const std::vector<int64_t>& rows) const { return at::tensor(rows, at::kLong); }
  at::Tensor All() const { return at::arange(kExamples, at::kLong); }

  CurvatureStatistics Measure(const at::Tensor& rows, const at::Tensor& u,
                              const MeasureOptions& options = {}) const {
    auto result = MeasureCurvature(risk_, plan_, rows, u, options);
    EXPECT_TRUE(result.ok()) << result.status();
    return *result;
  }

  at::Tensor DenseOn(const at::Tensor& rows) const {
    return reference::Ggn(risk_.network, risk_.likelihood, risk_.data.inputs.index_select(0, rows));
  }

  at::Tensor DirectionsOf(const at::Tensor& rows, int64_t k) const {
    LanczosOptions options;
    options.rank = k;
    options.tolerance = 1e-12;
    options.max_products = 500;
    auto pairs = Lanczos(GgnOperator(risk_, rows), options);
    EXPECT_TRUE(pairs.ok());
    return pairs->vectors.contiguous();
  }

  // All subsets of `size` examples.
  static std::vector<at::Tensor> Subsets(int64_t size) {
    std::vector<at::Tensor> subsets;
    for (int bits = 0; bits < (1 << kExamples); ++bits) {
      if (__builtin_popcount(bits) != size) continue;
      std::vector<int64_t> rows;
      for (int64_t n = 0; n < kExamples; ++n) {
        if (bits & (1 << n)) rows.push_back(n);
      }
      subsets.push_back(at::tensor(rows, at::kLong));
    }
    return subsets;
  }

  EmpiricalRisk risk_ = reference::MakeRisk(reference::TanhMlp(3, 4, 3), Likelihood{},
                                            RandomNormal({kExamples, 3}, 1),
                                            at::arange(kExamples, at::kLong).remainder(3));
  CapturePlan plan_ = FindCapturedParameters(risk_.network);
};

TEST_F(DirectionalCurvatureTest, EqualsTheQuadraticFormOfTheDenseMatrix) {
  const at::Tensor u =
      std::get<0>(at::linalg_qr(RandomNormal({risk_.network.n_parameters(), 5}, 2)));
  const at::Tensor dense = DenseOn(All());
  const CurvatureStatistics curvature = Measure(All(), u);
  EXPECT_LT(Max(curvature.along.mean - (u * at::mm(dense, u)).sum(0)), 1e-13);
  EXPECT_NEAR(curvature.total.mean[0].item<double>(), dense.trace().item<double>(), 1e-12);
  EXPECT_EQ(curvature.count(), kExamples);
}

// Every kind of curvature that has a factor: along directions, traces and diagonal, exactly.
TEST_F(DirectionalCurvatureTest, EveryKindAgreesWithItsDenseMatrix) {
  const at::Tensor u =
      std::get<0>(at::linalg_qr(RandomNormal({risk_.network.n_parameters(), 3}, 2)));
  for (const CurvatureSpec& spec :
       {CurvatureSpec{CurvatureKind::kGgn, 1, 0}, CurvatureSpec{CurvatureKind::kMcFisher, 2, 5},
        CurvatureSpec{CurvatureKind::kEmpiricalFisher, 1, 0}}) {
    const at::Tensor dense = reference::Curvature(risk_, spec);
    for (const bool diagonal : {false, true}) {
      MeasureOptions options;
      options.curvature = spec;
      options.diagonal = diagonal;
      const CurvatureStatistics curvature = Measure(All(), u, options);
      EXPECT_LT(Max(curvature.along.mean - (u * at::mm(dense, u)).sum(0)), 1e-13);
      int64_t offset = 0;
      for (size_t i = 0; i < risk_.network.parameters().size(); ++i) {
        const int64_t n = risk_.network.parameters()[i].value.numel();
        EXPECT_NEAR(curvature.blocks.mean[i].item<double>(),
                    dense.diagonal().narrow(0, offset, n).sum().item<double>(), 1e-13);
        offset += n;
      }
      EXPECT_EQ(curvature.diagonal.defined(), diagonal);
      if (diagonal) {
        EXPECT_LT(Max(curvature.diagonal - dense.diagonal()), 1e-13);
      }
    }
  }
}

TEST_F(DirectionalCurvatureTest, TheHessianIsExactAlongDirectionsAndUnbiasedInItsTrace) {
  const int64_t p = risk_.network.n_parameters();
  const at::Tensor u = std::get<0>(at::linalg_qr(RandomNormal({p, 3}, 2)));
  const at::Tensor dense = reference::Hessian(risk_);
  MeasureOptions options;
  options.curvature.kind = CurvatureKind::kHessian;
  options.diagonal = true;
  at::Tensor traces = at::zeros({0}, at::kDouble), diagonal = at::zeros({p}, at::kDouble);
  constexpr int kSeeds = 400;
  double stated = 0;
  for (options.curvature.seed = 0; options.curvature.seed < kSeeds; ++options.curvature.seed) {
    const CurvatureStatistics curvature = Measure(All(), u, options);
    ASSERT_LT(Max(curvature.along.mean - (u * at::mm(dense, u)).sum(0)), 1e-12);
    ASSERT_NEAR(curvature.blocks.mean.sum().item<double>(), curvature.total.mean[0].item<double>(),
                1e-12);
    traces = at::cat({traces, curvature.total.mean});
    diagonal += curvature.diagonal / kSeeds;
    stated += curvature.total.StandardError()[0].item<double>() / kSeeds;
  }
  const double spread = traces.std(0, true).item<double>();
  EXPECT_NEAR(traces.mean().item<double>(), dense.trace().item<double>(), 4 * spread / 20);
  // Rademacher probes: the diagonal's noise comes from off-diagonal elements.
  const at::Tensor noise =
      (dense.square().sum(1) - dense.diagonal().square()).clamp_min(0).sqrt() / 20;
  EXPECT_LT(((diagonal - dense.diagonal()).abs() - 5 * noise).max().item<double>(), 1e-9);
  // The stated error includes the noise of the probes (and that of the examples).
  EXPECT_GT(stated, 0.8 * spread);
}

TEST_F(DirectionalCurvatureTest, AMeasurementStopsWhenItIsPreciseEnough) {
  risk_ = reference::MakeRisk(reference::TanhMlp(3, 4, 3), Likelihood{}, RandomNormal({2000, 3}, 1),
                              at::zeros({2000}, at::kLong));
  const at::Tensor u = DirectionsOf(at::arange(50, at::kLong), 2);
  MeasureOptions options;
  options.target_relative_standard_error = 0.05;
  const CurvatureStatistics stopped = Measure(at::arange(50, 2000, at::kLong), u, options);
  EXPECT_LT(stopped.count(), 1950);
  EXPECT_GE(stopped.count(), 200);
  EXPECT_LE((stopped.along.StandardError() / stopped.along.mean).max().item<double>(), 0.05);
  options.target_relative_standard_error = 1e-6;
  EXPECT_EQ(Measure(at::arange(50, 2000, at::kLong), u, options).count(), 1950);
}

TEST_F(DirectionalCurvatureTest, MergedStatisticsAreThoseOfAllTheData) {
  const at::Tensor u =
      std::get<0>(at::linalg_qr(RandomNormal({risk_.network.n_parameters(), 3}, 2)));
  MeasureOptions options;
  options.diagonal = true;
  const CurvatureStatistics whole = Measure(All(), u, options);
  CurvatureStatistics merged = Measure(Rows({0, 1}), u, options);
  merged.Merge(Measure(Rows({2, 3, 4, 5, 6}), u, options));
  EXPECT_EQ(merged.count(), whole.count());
  EXPECT_LT(Max(merged.along.mean - whole.along.mean), 1e-14);
  EXPECT_LT(Max(merged.along.StandardError() - whole.along.StandardError()), 1e-14);
  EXPECT_LT(Max(merged.blocks.mean - whole.blocks.mean), 1e-14);
  EXPECT_LT(Max(merged.diagonal - whole.diagonal), 1e-14);
}

TEST_F(DirectionalCurvatureTest, StandardErrorIsTheTextbookOne) {
  const at::Tensor u =
      std::get<0>(at::linalg_qr(RandomNormal({risk_.network.n_parameters(), 2}, 2)));
  std::vector<at::Tensor> each;
  for (int64_t n = 0; n < kExamples; ++n) each.push_back(Measure(Rows({n}), u).along.mean);
  const at::Tensor samples = at::stack(each);
  const at::Tensor expected =
      samples.std(0, /*unbiased=*/true) / std::sqrt(static_cast<double>(kExamples));
  EXPECT_LT(Max(Measure(All(), u).along.StandardError() - expected), 1e-13);
}

TEST_F(DirectionalCurvatureTest, SplittingAndOrderChangeNothing) {
  const at::Tensor u =
      std::get<0>(at::linalg_qr(RandomNormal({risk_.network.n_parameters(), 3}, 2)));
  const CurvatureStatistics whole = Measure(All(), u);
  for (int64_t chunk : {1, 2, 5}) {
    risk_.chunk_size = chunk;
    const CurvatureStatistics split = Measure(All().flip(0), u);
    EXPECT_LT(Max(split.along.mean - whole.along.mean), 1e-13);
    EXPECT_LT(Max(split.along.StandardError() - whole.along.StandardError()), 1e-13);
    EXPECT_LT(Max(split.total.StandardError() - whole.total.StandardError()), 1e-13);
  }
}

TEST_F(DirectionalCurvatureTest, IsUnbiasedForFixedDirectionsOverAllMiniBatches) {
  const at::Tensor u =
      std::get<0>(at::linalg_qr(RandomNormal({risk_.network.n_parameters(), 4}, 3)));
  const at::Tensor truth = Measure(All(), u).along.mean;
  for (int64_t size : {1, 3, 5}) {
    at::Tensor sum = at::zeros({4}, at::kDouble);
    const auto subsets = Subsets(size);
    for (const at::Tensor& rows : subsets) sum += Measure(rows, u).along.mean;
    EXPECT_LT(Max(sum / static_cast<double>(subsets.size()) - truth), 1e-13) << size;
  }
}

TEST_F(DirectionalCurvatureTest, MiniBatchEigenvaluesAreTooLargeOnTopAndTheTraceIsNot) {
  const at::Tensor full = DenseOn(All());
  const double truth = std::get<0>(at::linalg_eigh(full, "L"))[-1].item<double>();
  double sum_top = 0, sum_trace = 0;
  const auto subsets = Subsets(3);
  for (const at::Tensor& rows : subsets) {
    const at::Tensor values = std::get<0>(at::linalg_eigh(DenseOn(rows), "L"));
    sum_top += values[-1].item<double>();
    sum_trace += Measure(rows, at::zeros({risk_.network.n_parameters(), 0}, at::kDouble))
                     .total.mean[0]
                     .item<double>();
  }
  const auto n = static_cast<double>(subsets.size());
  EXPECT_GT(sum_top / n, truth * 1.05);  // biased: the premise of the method
  EXPECT_NEAR(sum_trace / n, full.trace().item<double>(), 1e-12);
}

TEST_F(DirectionalCurvatureTest, AnIndependentBatchRemovesTheBiasExactly) {
  // Over all ways to draw B1 (3 of 7) and B2 from the rest (2 of 4), the average of u1'G_B2 u1 is
  // the average of u1'G_rest u1: nothing of the choice of u1 leaks into B2. Measured on B1 itself
  // it is too large.
  double debiased = 0, rest = 0, biased = 0;
  int64_t pairs = 0, firsts = 0;
  for (const at::Tensor& b1 : Subsets(3)) {
    const at::Tensor u = DirectionsOf(b1, 1);
    std::vector<int64_t> others;
    for (int64_t n = 0; n < kExamples; ++n) {
      if (!(b1 == n).any().item<bool>()) others.push_back(n);
    }
    biased += Measure(b1, u).along.mean.item<double>();
    rest += Measure(Rows(others), u).along.mean.item<double>();
    ++firsts;
    for (size_t i = 0; i < others.size(); ++i) {
      for (size_t j = i + 1; j < others.size(); ++j) {
        debiased += Measure(Rows({others[i], others[j]}), u).along.mean.item<double>();
        ++pairs;
      }
    }
  }
  EXPECT_NEAR(debiased / static_cast<double>(pairs), rest / static_cast<double>(firsts), 1e-12);
  EXPECT_GT(biased / static_cast<double>(firsts), 1.2 * rest / static_cast<double>(firsts));
}

TEST_F(DirectionalCurvatureTest, TheSameBatchGivesTheRitzValuesAndAllDataTheTrueCurvature) {
  const at::Tensor b1 = Rows({0, 2, 5});
  LanczosOptions options;
  options.rank = 4;
  options.tolerance = 1e-12;
  const auto pairs = Lanczos(GgnOperator(risk_, b1), options);
  ASSERT_TRUE(pairs.ok());
  EXPECT_LT(Max(Measure(b1, pairs->vectors).along.mean - pairs->values), 1e-12);
  const at::Tensor dense = DenseOn(All());
  EXPECT_LT(Max(Measure(All(), pairs->vectors).along.mean -
                (pairs->vectors * at::mm(dense, pairs->vectors)).sum(0)),
            1e-12);
}

TEST_F(DirectionalCurvatureTest, FinitePopulationIdentityHolds) {
  // u'G_D u = (B/N) u'G_B u + (1 - B/N) u'G_rest u
  const at::Tensor b = Rows({1, 3, 4}), rest = Rows({0, 2, 5, 6});
  const at::Tensor u = DirectionsOf(b, 3);
  const at::Tensor mix = 3.0 / 7 * Measure(b, u).along.mean + 4.0 / 7 * Measure(rest, u).along.mean;
  EXPECT_LT(Max(mix - Measure(All(), u).along.mean), 1e-13);
}

}  // namespace
}  // namespace laplaced
