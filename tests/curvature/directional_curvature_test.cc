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

  DirectionalCurvature Measure(const at::Tensor& rows, const at::Tensor& u) const {
    auto result = MeasureCurvature(risk_, plan_, rows, u);
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
    return pairs->vectors;
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
  const DirectionalCurvature curvature = Measure(All(), u);
  EXPECT_LT(Max(curvature.values - (u * at::mm(dense, u)).sum(0)), 1e-13);
  EXPECT_NEAR(curvature.trace, dense.trace().item<double>(), 1e-12);
  EXPECT_EQ(curvature.count, kExamples);
}

TEST_F(DirectionalCurvatureTest, StandardErrorIsTheTextbookOne) {
  const at::Tensor u =
      std::get<0>(at::linalg_qr(RandomNormal({risk_.network.n_parameters(), 2}, 2)));
  std::vector<at::Tensor> each;
  for (int64_t n = 0; n < kExamples; ++n) each.push_back(Measure(Rows({n}), u).values);
  const at::Tensor samples = at::stack(each);
  const at::Tensor expected =
      samples.std(0, /*unbiased=*/true) / std::sqrt(static_cast<double>(kExamples));
  EXPECT_LT(Max(Measure(All(), u).standard_errors - expected), 1e-13);
}

TEST_F(DirectionalCurvatureTest, SplittingAndOrderChangeNothing) {
  const at::Tensor u =
      std::get<0>(at::linalg_qr(RandomNormal({risk_.network.n_parameters(), 3}, 2)));
  const DirectionalCurvature whole = Measure(All(), u);
  for (int64_t chunk : {1, 2, 5}) {
    risk_.chunk_size = chunk;
    const DirectionalCurvature split = Measure(All().flip(0), u);
    EXPECT_LT(Max(split.values - whole.values), 1e-13);
    EXPECT_LT(Max(split.standard_errors - whole.standard_errors), 1e-13);
    EXPECT_NEAR(split.trace_standard_error, whole.trace_standard_error, 1e-13);
  }
}

TEST_F(DirectionalCurvatureTest, IsUnbiasedForFixedDirectionsOverAllMiniBatches) {
  const at::Tensor u =
      std::get<0>(at::linalg_qr(RandomNormal({risk_.network.n_parameters(), 4}, 3)));
  const at::Tensor truth = Measure(All(), u).values;
  for (int64_t size : {1, 3, 5}) {
    at::Tensor sum = at::zeros({4}, at::kDouble);
    const auto subsets = Subsets(size);
    for (const at::Tensor& rows : subsets) sum += Measure(rows, u).values;
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
    sum_trace += Measure(rows, at::zeros({risk_.network.n_parameters(), 0}, at::kDouble)).trace;
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
    biased += Measure(b1, u).values.item<double>();
    rest += Measure(Rows(others), u).values.item<double>();
    ++firsts;
    for (size_t i = 0; i < others.size(); ++i) {
      for (size_t j = i + 1; j < others.size(); ++j) {
        debiased += Measure(Rows({others[i], others[j]}), u).values.item<double>();
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
  EXPECT_LT(Max(Measure(b1, pairs->vectors).values - pairs->values), 1e-12);
  const at::Tensor dense = DenseOn(All());
  EXPECT_LT(Max(Measure(All(), pairs->vectors).values -
                (pairs->vectors * at::mm(dense, pairs->vectors)).sum(0)),
            1e-12);
}

TEST_F(DirectionalCurvatureTest, FinitePopulationIdentityHolds) {
  // u'G_D u = (B/N) u'G_B u + (1 - B/N) u'G_rest u
  const at::Tensor b = Rows({1, 3, 4}), rest = Rows({0, 2, 5, 6});
  const at::Tensor u = DirectionsOf(b, 3);
  const at::Tensor mix = 3.0 / 7 * Measure(b, u).values + 4.0 / 7 * Measure(rest, u).values;
  EXPECT_LT(Max(mix - Measure(All(), u).values), 1e-13);
}

}  // namespace
}  // namespace laplaced
