#include "client/cli/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace laplace::cli {
namespace {

const std::vector<float> kThreeRows = {0.7f, 0.2f, 0.1f,   // says 0
                                       0.1f, 0.3f, 0.6f,   // says 2
                                       0.2f, 0.5f, 0.3f};  // says 1

TEST(AccuracyTest, CountsRowsWhoseTopClassIsTheLabel) {
  EXPECT_DOUBLE_EQ(Accuracy(kThreeRows, 3, {0, 2, 0}), 2.0 / 3);
  EXPECT_EQ(ArgMax(kThreeRows, 3, 1), 2);
}

TEST(AccuracyTest, TheFirstClassWinsATie) { EXPECT_EQ(ArgMax({0.5f, 0.5f}, 2, 0), 0); }

TEST(LikelyLabelsTest, AreThoseOfAtLeastOneHalf) {
  const std::vector<float> probabilities = {0.5f, 0.49f, 0.9f, 0.1f, 0.2f, 0.3f};
  EXPECT_EQ(LikelyLabels(probabilities, 3, 0), (std::vector<int64_t>{0, 2}));
  EXPECT_TRUE(LikelyLabels(probabilities, 3, 1).empty());
}

TEST(NegativeLogLikelihoodTest, IsTheMeanOverRows) {
  const double expected = -(std::log(0.7f) + std::log(0.6f) + std::log(0.2f)) / 3.0;
  EXPECT_NEAR(NegativeLogLikelihood(kThreeRows, 3, {0, 2, 0}), expected, 1e-6);
}

TEST(NegativeLogLikelihoodTest, StaysFiniteWhenAProbabilityUnderflows) {
  EXPECT_NEAR(NegativeLogLikelihood({0.0f, 1.0f}, 2, {0}),
              -std::log(double{std::numeric_limits<float>::min()}), 1e-9);
}

TEST(CalibrationErrorTest, WeighsEveryBinByItsRows) {
  // Confidences .95, .95, .95, .95 in one bin with three of four right (gap .20) and .65, .65 in
  // another with one of two right (gap .15): (4 * .20 + 2 * .15) / 6.
  const std::vector<float> probabilities = {0.95f, 0.05f, 0.95f, 0.05f, 0.95f, 0.05f,
                                            0.05f, 0.95f, 0.65f, 0.35f, 0.35f, 0.65f};
  const std::vector<int64_t> labels = {0, 0, 0, 0, 0, 0};
  EXPECT_NEAR(ExpectedCalibrationError(probabilities, 2, labels), (4 * 0.20 + 2 * 0.15) / 6, 1e-6);
}

TEST(CalibrationErrorTest, GapsOfOppositeSignCancelOnlyWithinABin) {
  // .70 wrong and .90 right fall into different fifteenths: (.70 + .10) / 2.
  EXPECT_NEAR(ExpectedCalibrationError({0.70f, 0.30f, 0.90f, 0.10f}, 2, {1, 0}), 0.4, 1e-6);
  // In one bin of width one they cancel to |1 - 1.6| / 2.
  EXPECT_NEAR(ExpectedCalibrationError({0.70f, 0.30f, 0.90f, 0.10f}, 2, {1, 0}, 1), 0.3, 1e-6);
}

TEST(CalibrationErrorTest, BinsIncludeTheirUpperEdge) {
  // With four bins .5 belongs to the second and .75 to the third, so they do not mix.
  EXPECT_NEAR(ExpectedCalibrationError({0.5f, 0.5f, 0.75f, 0.25f}, 2, {0, 1}, 4), (0.5 + 0.75) / 2,
              1e-6);
  EXPECT_NEAR(ExpectedCalibrationError({1.0f, 0.0f}, 2, {0}), 0, 1e-12);
}

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

TEST(MetricsTest, OfNothingAreNan) {
  EXPECT_TRUE(std::isnan(Accuracy({}, 3, {})));
  EXPECT_TRUE(std::isnan(NegativeLogLikelihood({}, 3, {})));
  EXPECT_TRUE(std::isnan(ExpectedCalibrationError({}, 3, {})));
  EXPECT_TRUE(std::isnan(Auroc({}, {1})));
  EXPECT_TRUE(std::isnan(Auroc({std::nan("")}, {1})));
}

}  // namespace
}  // namespace laplace::cli
