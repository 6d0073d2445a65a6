#include "server/linalg/lanczos.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/reference/dense.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::MatrixOperator;

// A symmetric matrix with the given eigenvalues and random eigenvectors.
at::Tensor WithSpectrum(const std::vector<double>& values, uint64_t seed = 7) {
  const auto n = static_cast<int64_t>(values.size());
  const at::Tensor q = std::get<0>(at::linalg_qr(reference::RandomNormal({n, n}, seed)));
  return at::mm(q * at::tensor(values, at::kDouble), q.t());
}

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

void ExpectValidPairs(const at::Tensor& matrix, const EigenPairs& pairs) {
  const int64_t k = pairs.values.size(0);
  EXPECT_LT(Max(at::mm(pairs.vectors.t(), pairs.vectors) - at::eye(k, at::kDouble)), 1e-12);
  const at::Tensor residuals =
      (at::mm(matrix, pairs.vectors) - pairs.vectors * pairs.values).norm(2, {0}, false);
  // The recurrence's residuals are the true ones.
  EXPECT_LT(Max(residuals - pairs.residuals), 1e-9 * std::max(1.0, Max(matrix)));
}

TEST(LanczosTest, FindsTheLargestEigenvaluesOfAKnownSpectrum) {
  std::vector<double> spectrum;
  for (int i = 1; i <= 200; ++i) spectrum.push_back(i);
  const at::Tensor matrix = WithSpectrum(spectrum);
  LanczosOptions options;
  options.rank = 8;
  options.tolerance = 1e-10;
  options.max_products = 2000;
  const auto pairs = Lanczos(MatrixOperator(matrix), options);
  ASSERT_TRUE(pairs.ok()) << pairs.status();
  EXPECT_TRUE(pairs->converged);
  ASSERT_EQ(pairs->values.size(0), 8);
  for (int i = 0; i < 8; ++i) EXPECT_NEAR(pairs->values[i].item<double>(), 200 - i, 1e-7);
  ExpectValidPairs(matrix, *pairs);
}

TEST(LanczosTest, RestartsKeepTheResidualsTrue) {
  std::vector<double> spectrum;
  for (int i = 0; i < 150; ++i) spectrum.push_back(100.0 / (1 + i));
  const at::Tensor matrix = WithSpectrum(spectrum);
  LanczosOptions options;
  options.rank = 10;
  options.max_basis = 12;  // restarts after nearly every product
  options.tolerance = 1e-6;
  options.max_products = 1000;
  const auto pairs = Lanczos(MatrixOperator(matrix), options);
  ASSERT_TRUE(pairs.ok());
  EXPECT_TRUE(pairs->converged);
  for (int i = 0; i < 10; ++i) EXPECT_NEAR(pairs->values[i].item<double>(), spectrum[i], 1e-6);
  ExpectValidPairs(matrix, *pairs);
}

TEST(LanczosTest, UnconvergedPairsAreStillOrthonormalAndBoundedByTheLargestEigenvalue) {
  std::vector<double> spectrum;
  for (int i = 0; i < 300; ++i) spectrum.push_back(1 + 0.01 * i);
  const at::Tensor matrix = WithSpectrum(spectrum);
  LanczosOptions options;
  options.rank = 20;
  options.max_products = 25;
  options.tolerance = 1e-12;
  const auto pairs = Lanczos(MatrixOperator(matrix), options);
  ASSERT_TRUE(pairs.ok());
  EXPECT_FALSE(pairs->converged);
  EXPECT_EQ(pairs->products, 25);
  EXPECT_LE(pairs->values[0].item<double>(), spectrum.back() + 1e-12);
  ExpectValidPairs(matrix, *pairs);
}

TEST(LanczosTest, RankDeficientOperatorsReturnWhatExists) {
  std::vector<double> spectrum(60, 0.0);
  for (int i = 0; i < 5; ++i) spectrum[i] = 10 - i;
  const at::Tensor matrix = WithSpectrum(spectrum);
  LanczosOptions options;
  options.rank = 20;
  const auto pairs = Lanczos(MatrixOperator(matrix), options);
  ASSERT_TRUE(pairs.ok());
  EXPECT_TRUE(pairs->rank_exhausted);
  ASSERT_EQ(pairs->values.size(0), 5);
  for (int i = 0; i < 5; ++i) EXPECT_NEAR(pairs->values[i].item<double>(), 10 - i, 1e-10);
  ExpectValidPairs(matrix, *pairs);
}

TEST(LanczosTest, RepeatedEigenvaluesAreFoundAsOftenAsTheyOccur) {
  std::vector<double> spectrum(40, 1.0);
  spectrum[0] = spectrum[1] = spectrum[2] = 5;
  spectrum[3] = 3;
  const at::Tensor matrix = WithSpectrum(spectrum);
  LanczosOptions options;
  options.rank = 4;
  options.tolerance = 1e-9;
  options.max_products = 200;
  const auto pairs = Lanczos(MatrixOperator(matrix), options);
  ASSERT_TRUE(pairs.ok());
  EXPECT_GT(pairs->breakdowns, 0);
  const std::vector<double> expected = {5, 5, 5, 3};
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(pairs->values[i].item<double>(), expected[i], 1e-8) << i;
  ExpectValidPairs(matrix, *pairs);
}

TEST(LanczosTest, FullRankOfASmallOperatorIsTheDenseDecomposition) {
  const at::Tensor a = reference::RandomNormal({9, 9}, 3);
  const at::Tensor matrix = at::mm(a, a.t());
  LanczosOptions options;
  options.rank = 9;
  const auto pairs = Lanczos(MatrixOperator(matrix), options);
  ASSERT_TRUE(pairs.ok());
  EXPECT_TRUE(pairs->converged);
  EXPECT_FALSE(pairs->rank_exhausted);
  const at::Tensor expected = std::get<0>(at::linalg_eigh(matrix, "L")).flip(0);
  EXPECT_LT(Max(pairs->values - expected), 1e-11);
  ExpectValidPairs(matrix, *pairs);
}

TEST(LanczosTest, ZeroOperatorHasNoDirections) {
  LanczosOptions options;
  options.rank = 3;
  const auto pairs = Lanczos(MatrixOperator(at::zeros({10, 10}, at::kDouble)), options);
  ASSERT_TRUE(pairs.ok());
  EXPECT_EQ(pairs->values.size(0), 0);
  EXPECT_TRUE(pairs->rank_exhausted);
}

TEST(LanczosTest, TheSameSeedGivesTheSameDigitsAndAnotherSeedTheSameValues) {
  const at::Tensor matrix = WithSpectrum({9, 8, 7, 6, 5, 4, 3, 2, 1, 0.5, 0.25, 0.1});
  LanczosOptions options;
  options.rank = 3;
  options.tolerance = 1e-11;
  const auto first = Lanczos(MatrixOperator(matrix), options);
  const auto again = Lanczos(MatrixOperator(matrix), options);
  options.seed = 99;
  const auto other = Lanczos(MatrixOperator(matrix), options);
  EXPECT_TRUE(at::equal(first->vectors, again->vectors));
  EXPECT_FALSE(at::equal(first->vectors, other->vectors));
  EXPECT_LT(Max(first->values - other->values), 1e-9);
}

// A diagonal matrix too large to be written out.
class DiagonalOperator : public LinearOperator {
 public:
  explicit DiagonalOperator(at::Tensor diagonal) : diagonal_(std::move(diagonal)) {}
  int64_t Rows() const override { return diagonal_.size(0); }
  int64_t Cols() const override { return Rows(); }
  bool SelfAdjoint() const override { return true; }
  double ProductPrecision() const override { return 1e-13; }
  absl::StatusOr<at::Tensor> Apply(const at::Tensor& block) const override {
    return block * diagonal_.unsqueeze(1);
  }

 private:
  at::Tensor diagonal_;
};

int64_t KilobytesOf(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(field + ":", 0) == 0) {
      return std::strtoll(line.c_str() + field.size() + 1, nullptr, 10);
    }
  }
  return -1;
}

TEST(LanczosTest, MemoryStaysWithinRankPlusTwelveVectors) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "AddressSanitizer keeps what was freed";
#endif
  constexpr int64_t kSize = 2000000, kRank = 10;
  std::ofstream reset("/proc/self/clear_refs");
  if (!(reset << 5) || !reset.flush()) GTEST_SKIP() << "the peak of memory cannot be read here";
  const at::Tensor diagonal = at::full({kSize}, 1e-3, at::kDouble);
  for (int64_t i = 0; i < 40; ++i) diagonal[i] = 100.0 / (1 + static_cast<double>(i));
  const DiagonalOperator op(diagonal);
  LanczosOptions options;
  options.rank = kRank;
  options.max_products = 60;
  const int64_t before = KilobytesOf("VmRSS");
  std::ofstream("/proc/self/clear_refs") << 5;
  const auto pairs = Lanczos(op, options);
  ASSERT_TRUE(pairs.ok()) << pairs.status();
  const double vectors = static_cast<double>(KilobytesOf("VmHWM") - before) * 1024 / (8.0 * kSize);
  EXPECT_LT(vectors, kRank + 12 + 0.5);
  EXPECT_GT(vectors, kRank);  // it was measured
}

TEST(LanczosTest, CancellationIsPassedOnAfterTheProductInProgress) {
  LanczosOptions options;
  options.rank = 2;
  int calls = 0;
  options.on_product = [&](int64_t, int64_t) {
    return ++calls == 3 ? absl::CancelledError("stop") : absl::OkStatus();
  };
  const auto pairs = Lanczos(MatrixOperator(WithSpectrum({5, 4, 3, 2, 1, 0.5})), options);
  EXPECT_EQ(pairs.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(calls, 3);
}

TEST(LanczosTest, RefusesImpossibleRanksAndProductsThatAreNotFinite) {
  LanczosOptions options;
  options.rank = 7;
  EXPECT_EQ(Lanczos(MatrixOperator(at::eye(6, at::kDouble)), options).status().code(),
            absl::StatusCode::kInvalidArgument);
  options.rank = 2;
  EXPECT_EQ(Lanczos(MatrixOperator(at::full({6, 6}, NAN, at::kDouble)), options).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace laplaced
