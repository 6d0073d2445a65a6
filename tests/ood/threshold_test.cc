#include "server/ood/threshold.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

namespace laplaced {
namespace {

TEST(BetaCdfTest, MatchesClosedForms) {
  EXPECT_NEAR(BetaCdf(0.3, 1, 1), 0.3, 1e-14);
  EXPECT_NEAR(BetaCdf(0.3, 2, 1), 0.09, 1e-14);
  EXPECT_NEAR(BetaCdf(0.3, 1, 3), 1 - 0.7 * 0.7 * 0.7, 1e-14);
  EXPECT_NEAR(BetaCdf(0.5, 40, 40), 0.5, 1e-12);
  EXPECT_NEAR(BetaCdf(0.2, 2, 3), 0.1808, 1e-12);  // 6x^2 - 8x^3 + 3x^4
  EXPECT_EQ(BetaCdf(0, 2, 2), 0);
  EXPECT_EQ(BetaCdf(1, 2, 2), 1);
}

TEST(CalibrateThresholdTest, PicksTheConformalQuantile) {
  std::vector<double> scores(99);
  std::iota(scores.begin(), scores.end(), 1);                 // 1..99
  EXPECT_EQ(CalibrateThreshold(scores, 0.05).threshold, 95);  // ceil(100 * 0.95)
  EXPECT_EQ(CalibrateThreshold(scores, 0.5).threshold, 50);
  EXPECT_EQ(CalibrateThreshold({3, 1, 2}, 0.05).threshold, 3);  // too few to promise 5 %
}

TEST(CalibrateThresholdTest, IntervalCoversTheRealisedRate) {
  // The realised rate of uniform scores is 1 - threshold. 400 calibrations: expect 95 % covered,
  // standard error 1.1 %.
  std::mt19937_64 random(5);
  std::uniform_real_distribution<double> uniform(0, 1);
  int covered = 0;
  double mean_rate = 0;
  for (int repetition = 0; repetition < 400; ++repetition) {
    std::vector<double> scores(200);
    for (double& s : scores) s = uniform(random);
    const OodThreshold t = CalibrateThreshold(scores, 0.1);
    const double rate = 1 - t.threshold;
    covered += t.rate_lower <= rate && rate <= t.rate_upper;
    mean_rate += rate / 400;
  }
  EXPECT_NEAR(covered / 400.0, 0.95, 0.045);
  EXPECT_NEAR(mean_rate, 20.0 / 201, 0.005);
}

TEST(IdQuantilesTest, LieBetweenNeighboursInProportion) {
  std::vector<double> scores(201);
  std::iota(scores.begin(), scores.end(), 0);  // 0..200
  std::swap(scores[0], scores[150]);
  const std::vector<double> expected = {2, 10, 20, 50, 100, 150, 180, 190, 198};
  const std::vector<double> quantiles = IdQuantiles(scores);
  ASSERT_EQ(quantiles.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(quantiles[i], expected[i], 1e-9);
  EXPECT_DOUBLE_EQ(IdQuantiles({3, 1})[4], 2);
  EXPECT_DOUBLE_EQ(IdQuantiles({7})[8], 7);
}

}  // namespace
}  // namespace laplaced
