// Detection metrics against hand examples. Scikit-learn judges them in metrics_reference_test.cc.
#include "client/cli/detection_metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace laplace::cli {
namespace {

TEST(AurocTest, IsOneForSeparatedAndZeroForInvertedScores) {
  EXPECT_DOUBLE_EQ(Auroc({1, 2, 3}, {4, 5}), 1);
  EXPECT_DOUBLE_EQ(Auroc({4, 5}, {1, 2, 3}), 0);
}

TEST(AurocTest, CountsTiesAsOneHalf) {
  EXPECT_DOUBLE_EQ(Auroc({1, 1, 1}, {1, 1}), 0.5);
  // Pairs (in, out): (1,2) win, (1,3) win, (2,2) tie, (2,3) win.
  EXPECT_DOUBLE_EQ(Auroc({1, 2}, {2, 3}), 3.5 / 4);
}

TEST(AurocTest, AgreesWithCountingPairs) {
  const std::vector<double> in = {0.1, 0.4, 0.4, 0.9, -2, 0.4, 7};
  const std::vector<double> out = {0.4, 0.95, 0.1, 7, 8};
  double wins = 0;
  for (double a : in) {
    for (double b : out) wins += b > a ? 1 : b == a ? 0.5 : 0;
  }
  EXPECT_DOUBLE_EQ(Auroc(in, out), wins / (in.size() * out.size()));
}

TEST(DetectionMetricsTest, OfSeparatedScoresArePerfect) {
  const DetectionValues values = DetectionMetrics({1, 2, 3}, {4, 5});
  EXPECT_EQ(values, (DetectionValues{1, 1, 1, 0, 0}));
}

TEST(DetectionMetricsTest, OfInvertedScoresAreAsBadAsCanBe) {
  const DetectionValues values = DetectionMetrics({4, 5, 6}, {1, 2});
  EXPECT_DOUBLE_EQ(values[kAuroc], 0);
  // ID is found at places 3, 4 and 5 from below, OOD at places 4 and 5 from above.
  EXPECT_DOUBLE_EQ(values[kAuprIn], (1.0 / 3 + 2.0 / 4 + 3.0 / 5) / 3);
  EXPECT_DOUBLE_EQ(values[kAuprOut], (1.0 / 4 + 2.0 / 5) / 2);
  EXPECT_EQ(values[kFpr95OodPositive], 1);
  EXPECT_EQ(values[kFpr95IdPositive], 1);
}

TEST(DetectionMetricsTest, OfOneTieAreThoseOfChance) {
  const DetectionValues values = DetectionMetrics({7, 7, 7}, {7});
  EXPECT_DOUBLE_EQ(values[kAuroc], 0.5);
  EXPECT_DOUBLE_EQ(values[kAuprIn], 0.75);
  EXPECT_DOUBLE_EQ(values[kAuprOut], 0.25);
  EXPECT_EQ(values[kFpr95OodPositive], 1);
  EXPECT_EQ(values[kFpr95IdPositive], 1);
}

TEST(DetectionMetricsTest, TakeOneExampleOfEach) {
  EXPECT_EQ(DetectionMetrics({1}, {2}), (DetectionValues{1, 1, 1, 0, 0}));
  EXPECT_EQ(DetectionMetrics({2}, {1}), (DetectionValues{0, 0.5, 0.5, 1, 1}));
}

TEST(DetectionMetricsTest, TiesAreOneThreshold) {
  // From above: {3: OOD}, {2: OOD and ID}, {1: ID}. OOD: P = 1, then 2/3; ID from below: 1, 2/3.
  const DetectionValues values = DetectionMetrics({1, 2}, {2, 3});
  EXPECT_DOUBLE_EQ(values[kAuprOut], (1 + 2.0 / 3) / 2);
  EXPECT_DOUBLE_EQ(values[kAuprIn], (1 + 2.0 / 3) / 2);
  EXPECT_DOUBLE_EQ(values[kFpr95OodPositive], 0.5);
  EXPECT_DOUBLE_EQ(values[kFpr95IdPositive], 0.5);
}

TEST(DetectionMetricsTest, TheTwoFprConventionsDiffer) {
  // ID 1 ... 20 and OOD 10.5 and 0.5: catching all OOD flags every ID example (t = 0.5); accepting
  // 19 of 20 ID examples (t = 19) accepts both of OOD.
  std::vector<double> in;
  for (int i = 1; i <= 20; ++i) in.push_back(i);
  const DetectionValues both = DetectionMetrics(in, {10.5, 0.5});
  EXPECT_EQ(both[kFpr95OodPositive], 1);
  EXPECT_EQ(both[kFpr95IdPositive], 1);
  // The one at 19.5 is now above the threshold for ID; catching it flags one ID example, 20.
  const DetectionValues high = DetectionMetrics(in, {19.5});
  EXPECT_DOUBLE_EQ(high[kFpr95OodPositive], 1.0 / 20);
  EXPECT_EQ(high[kFpr95IdPositive], 0);
  const DetectionValues mixed = DetectionMetrics(in, {19.5, 18.5});
  EXPECT_DOUBLE_EQ(mixed[kFpr95OodPositive], 2.0 / 20);
  EXPECT_DOUBLE_EQ(mixed[kFpr95IdPositive], 1.0 / 2);
}

TEST(DetectionMetricsTest, InfinityIsAValueAndNanIsNot) {
  const double inf = std::numeric_limits<double>::infinity();
  EXPECT_EQ(DetectionMetrics({-inf, 1}, {inf})[kAuroc], 1);
  EXPECT_EQ(DetectionMetrics({inf}, {inf})[kAuroc], 0.5);
  for (const DetectionValues& values :
       {DetectionMetrics({}, {1}), DetectionMetrics({1}, {}), DetectionMetrics({std::nan("")}, {1}),
        DetectionMetrics({1}, {2, std::nan("")})}) {
    for (double value : values) EXPECT_TRUE(std::isnan(value));
  }
}

TEST(DetectionMetricsTest, OfCountsAreThoseOfRepeatedExamples) {
  const RankedScores ranked = RankScores({3, 1, 1, 2}, {2, 5});
  EXPECT_EQ(ranked.n_ranks, 4);
  EXPECT_EQ(ranked.in, (std::vector<int32_t>{2, 0, 0, 1}));
  EXPECT_EQ(ranked.out, (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(DetectionMetricsOfCounts({0, 3, 1, 0, 0}, {0, 1, 0, 1, 0}),
            DetectionMetrics({2, 2, 2, 3}, {2, 5}));
}

}  // namespace
}  // namespace laplace::cli
