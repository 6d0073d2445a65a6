#include "client/cli/intervals.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "client/cli/detection_metrics.h"

namespace laplace::cli {
namespace {

TEST(ResampleTest, DrawsAsManyAsThereAreAndDependsOnEveryKey) {
  std::vector<int32_t> counts(1000);
  Resample(1, 2, 3, counts);
  EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), 0), 1000);
  std::vector<int32_t> again(1000, 9);
  Resample(1, 2, 3, again);
  EXPECT_EQ(counts, again);
  for (const auto& [seed, stream, replicate] :
       {std::tuple(2, 2, 3), std::tuple(1, 3, 3), std::tuple(1, 2, 4), std::tuple(2, 1, 3)}) {
    Resample(seed, stream, replicate, again);
    EXPECT_NE(counts, again);
  }
}

TEST(ResampleTest, CountsHaveTheMomentsOfAMultinomial) {
  // n = 50 cells, 4,000 replicates: mean 1, variance (1 - 1/n), covariance of neighbours -1/n.
  constexpr int kCells = 50;
  constexpr int kReplicates = 4000;
  std::vector<int32_t> counts(kCells);
  double sum = 0, square = 0, product = 0, first = 0;
  for (int r = 0; r < kReplicates; ++r) {
    Resample(7, 0, r, counts);
    first += counts[0];
    for (int i = 0; i + 1 < kCells; ++i) {
      sum += counts[i];
      square += counts[i] * counts[i];
      product += counts[i] * counts[i + 1];
    }
  }
  const double n = (kCells - 1) * kReplicates;
  EXPECT_NEAR(sum / n, 1, 0.005);
  EXPECT_NEAR(square / n - 1, 1 - 1.0 / kCells, 0.02);
  EXPECT_NEAR(product / n - 1, -1.0 / kCells, 0.01);
  EXPECT_NEAR(first / kReplicates, 1, 0.06);
}

TEST(ForReplicatesTest, CoversEveryReplicateOnce) {
  for (int threads : {1, 2, 7, 100}) {
    BootstrapOptions options;
    options.replicates = 23;
    options.threads = threads;
    std::vector<std::atomic<int>> seen(23);
    ForReplicates(options, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) ++seen[r];
    });
    for (const auto& times : seen) EXPECT_EQ(times, 1);
  }
  BootstrapOptions none;
  none.replicates = 0;
  ForReplicates(none, [](int64_t, int64_t) { FAIL(); });
}

TEST(PercentileIntervalTest, InterpolatesBetweenOrderStatistics) {
  const Interval half = PercentileInterval({4, 1, 0, 3, 2}, 0.5);
  EXPECT_DOUBLE_EQ(half.lower, 1);
  EXPECT_DOUBLE_EQ(half.upper, 3);
  const Interval wide = PercentileInterval({4, 1, 0, 3, 2}, 0.95);
  EXPECT_NEAR(wide.lower, 0.1, 1e-12);
  EXPECT_NEAR(wide.upper, 3.9, 1e-12);
}

TEST(PercentileIntervalTest, OfNothingOrNanIsNan) {
  EXPECT_TRUE(std::isnan(PercentileInterval({}, 0.95).lower));
  EXPECT_TRUE(std::isnan(PercentileInterval({1, std::nan(""), 2}, 0.95).upper));
}

TEST(PercentileIntervalTest, OfAConstantHasNoWidth) {
  const Interval interval = PercentileInterval(std::vector<double>(100, 0.3), 0.95);
  EXPECT_EQ(interval.lower, 0.3);
  EXPECT_EQ(interval.upper, 0.3);
}

TEST(BinomialIntervalTest, HasTheKnownEnds) {
  // No hit in n: the upper end is 1 - (alpha / 2)^(1 / n).
  const Interval none = BinomialInterval(0, 10, 0.95);
  EXPECT_EQ(none.lower, 0);
  EXPECT_NEAR(none.upper, 1 - std::pow(0.025, 0.1), 1e-12);
  const Interval all = BinomialInterval(10, 10, 0.95);
  EXPECT_NEAR(all.lower, std::pow(0.025, 0.1), 1e-12);
  EXPECT_EQ(all.upper, 1);
  EXPECT_TRUE(std::isnan(BinomialInterval(0, 0, 0.95).lower));
}

// Share of simulated studies whose interval holds the true AUROC: ID scores N(0, 1), OOD scores
// N(1, 1), so that it is Phi(1 / sqrt(2)).
double AurocCoverage(double confidence) {
  constexpr int kStudies = 300;
  constexpr int kExamples = 150;
  const double exact = 0.5 * std::erfc(-0.5);
  int covered = 0;
  for (int study = 0; study < kStudies; ++study) {
    std::mt19937_64 generator(1000 + study);
    std::normal_distribution<double> normal;
    std::vector<double> in, out;
    for (int i = 0; i < kExamples; ++i) in.push_back(normal(generator));
    for (int i = 0; i < kExamples; ++i) out.push_back(1 + normal(generator));
    const RankedScores ranked = RankScores(in, out);
    std::vector<double> replicates;
    std::vector<int32_t> of_in(kExamples), of_out(kExamples);
    for (int r = 0; r < 400; ++r) {
      Resample(study, 0, r, of_in);
      Resample(study, 1, r, of_out);
      std::vector<int32_t> in_counts(ranked.n_ranks), out_counts(ranked.n_ranks);
      for (int i = 0; i < kExamples; ++i) {
        in_counts[ranked.in[i]] += of_in[i];
        out_counts[ranked.out[i]] += of_out[i];
      }
      replicates.push_back(DetectionMetricsOfCounts(in_counts, out_counts)[kAuroc]);
    }
    const Interval interval = PercentileInterval(std::move(replicates), confidence);
    covered += interval.lower <= exact && exact <= interval.upper;
  }
  return static_cast<double>(covered) / kStudies;
}

TEST(BootstrapTest, CoversTheTrueAurocAsOftenAsItSays) {
  // Standard errors over 300 studies: 0.013 and 0.029.
  EXPECT_NEAR(AurocCoverage(0.95), 0.95, 0.03);
  EXPECT_NEAR(AurocCoverage(0.5), 0.5, 0.07);
}

}  // namespace
}  // namespace laplace::cli
