#include "client/cli/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
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

TEST(BrierScoreTest, IsTheMeanSquaredDistanceToTheLabel) {
  // .49 + .04 + .01, .01 + .09 + .16, .04 + .25 + .49 with labels 1, 2, 2.
  const double expected = (0.49 + 0.64 + 0.01 + 0.01 + 0.09 + 0.16 + 0.04 + 0.25 + 0.49) / 3;
  EXPECT_NEAR(BrierScore(kThreeRows, 3, {1, 2, 2}), expected, 1e-7);
  EXPECT_EQ(BrierScore({1, 0}, 2, {0}), 0);
  EXPECT_EQ(BrierScore({1, 0}, 2, {1}), 2);
}

double Named(const std::vector<ExampleMetric>& metrics, const std::string& name) {
  for (const ExampleMetric& metric : metrics) {
    if (metric.name == name) return Value(metric);
  }
  ADD_FAILURE() << name;
  return 0;
}

TEST(BernoulliMetricsTest, JudgeEveryLabelOnItsOwn) {
  // Row 0 says {there, not}, row 1 {there, there}; truth {there, not}, {not, there}.
  const auto metrics = BernoulliMetrics({0.75f, 0.25f, 0.5f, 1.0f}, 2, {1, 0, 0, 1});
  EXPECT_DOUBLE_EQ(Named(metrics, "label_accuracy"), 0.75);
  EXPECT_DOUBLE_EQ(Named(metrics, "subset_accuracy"), 0.5);
  EXPECT_DOUBLE_EQ(Named(metrics, "nll"), -(2 * std::log(0.75) + std::log(0.5)) / 4);
  EXPECT_DOUBLE_EQ(Named(metrics, "brier"), (2 * 0.0625 + 0.25) / 4);
  // Label 0: bins of .75 (gap .25) and .5 (gap .5); label 1: .25 (gap .25) and 1 (gap 0).
  EXPECT_DOUBLE_EQ(Named(metrics, "ece"), ((0.25 + 0.5) / 2 + (0.25 + 0) / 2) / 2);
}

TEST(BernoulliMetricsTest, GapsOfTwoLabelsDoNotCancel) {
  EXPECT_DOUBLE_EQ(Named(BernoulliMetrics({0.5f, 0.5f}, 2, {1, 0}), "ece"), 0.5);
}

TEST(GaussianMetricsTest, AreThoseOfThePredictive) {
  const auto metrics = GaussianMetrics({0, 1, 2, 3}, {1, 4, 1, 0.25}, 2, {0, 3, 2, 4});
  EXPECT_DOUBLE_EQ(Named(metrics, "rmse"), std::sqrt((4 + 1) / 4.0));
  const double nll = 0.5 * (4 * std::log(2 * M_PI) + std::log(4.0) + std::log(0.25) + 1 + 4) / 4;
  EXPECT_DOUBLE_EQ(Named(metrics, "nll"), nll);
  // Errors of 0, 1, 0 and 2 standard deviations.
  EXPECT_DOUBLE_EQ(Named(metrics, "coverage_95"), 0.75);
}

TEST(GaussianMetricsTest, WithoutVariancesThereIsOnlyTheError) {
  EXPECT_EQ(GaussianMetrics({1}, {}, 1, {2}).size(), 1u);
  EXPECT_EQ(GaussianMetrics({1}, {0}, 1, {2}).size(), 1u);
}

TEST(ExampleMetricTest, OfAResampleIsThatOfTheRepeatedExamples) {
  const std::vector<float> p = {0.7f, 0.2f, 0.1f, 0.1f, 0.3f, 0.6f, 0.2f, 0.5f, 0.3f};
  std::vector<float> repeated;
  for (int row : {0, 2, 2}) repeated.insert(repeated.end(), &p[3 * row], &p[3 * row] + 3);
  const auto metrics = CategoricalMetrics(p, 3, {1, 2, 1});
  const auto expected = CategoricalMetrics(repeated, 3, {1, 1, 1});
  for (size_t i = 0; i < metrics.size(); ++i) {
    EXPECT_NEAR(Value(metrics[i], {1, 0, 2}), Value(expected[i]), 1e-15) << metrics[i].name;
  }
  const auto errors = GaussianMetrics({0, 0, 0}, {}, 1, {1, 2, 3});
  EXPECT_DOUBLE_EQ(Value(errors[0], {0, 1, 2}), std::sqrt((4 + 9 + 9) / 3.0));
}

TEST(MetricsTest, OfNothingAreNan) {
  EXPECT_TRUE(std::isnan(Accuracy({}, 3, {})));
  EXPECT_TRUE(std::isnan(NegativeLogLikelihood({}, 3, {})));
  EXPECT_TRUE(std::isnan(ExpectedCalibrationError({}, 3, {})));
  EXPECT_TRUE(std::isnan(BrierScore({}, 3, {})));
  EXPECT_TRUE(std::isnan(Named(BernoulliMetrics({}, 2, {}), "ece")));
  EXPECT_TRUE(std::isnan(Named(GaussianMetrics({}, {}, 2, {}), "rmse")));
}

}  // namespace
}  // namespace laplace::cli
