// LatencyHistogram against exact quantiles of the same durations.
#include "client/cpp/latency_histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace laplace::client {
namespace {

// The definition: the smallest that at least a share p does not exceed.
double Exact(std::vector<double> values, double p) {
  std::sort(values.begin(), values.end());
  const auto below = [&](double value) {
    return static_cast<double>(std::upper_bound(values.begin(), values.end(), value) -
                               values.begin());
  };
  for (const double value : values) {
    if (below(value) >= p * static_cast<double>(values.size())) return value;
  }
  return values.back();
}

void ExpectClose(const std::vector<double>& values) {
  LatencyHistogram histogram;
  for (const double value : values) histogram.Add(value);
  EXPECT_EQ(histogram.count(), static_cast<int64_t>(values.size()));
  for (const double p : {0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0}) {
    const double exact = Exact(values, p);
    EXPECT_NEAR(histogram.Quantile(p), exact, 0.004 * exact + 1e-9) << "p = " << p;
  }
  EXPECT_EQ(histogram.Quantile(1), *std::max_element(values.begin(), values.end()));
}

TEST(LatencyHistogramTest, QuantilesAreRightToFourInAThousand) {
  std::mt19937_64 random(3);
  std::lognormal_distribution<double> heavy(std::log(2e-3), 2);
  std::uniform_real_distribution<double> log_uniform(std::log(1e-8), std::log(3000));
  std::vector<double> a, b;
  for (int i = 0; i < 3000; ++i) {
    a.push_back(std::min(heavy(random), 3000.0));
    b.push_back(std::exp(log_uniform(random)));
  }
  ExpectClose(a);
  ExpectClose(b);
  ExpectClose({1e-3});
  ExpectClose({5e-9, 255e-9, 256e-9, 257e-9, 511e-9, 512e-9});
}

TEST(LatencyHistogramTest, EmptyIsZero) {
  const LatencyHistogram histogram;
  EXPECT_EQ(histogram.Quantile(0.5), 0);
  EXPECT_EQ(histogram.mean(), 0);
  EXPECT_TRUE(histogram.Octaves().empty());
}

TEST(LatencyHistogramTest, WhatIsNoDurationIsKeptInRange) {
  LatencyHistogram histogram;
  histogram.Add(-1);
  histogram.Add(std::numeric_limits<double>::quiet_NaN());
  EXPECT_EQ(histogram.max(), 0);
  histogram.Add(1e9);
  histogram.Add(std::numeric_limits<double>::infinity());
  EXPECT_EQ(histogram.count(), 4);
  EXPECT_EQ(histogram.Quantile(0.5), 0);
  EXPECT_EQ(histogram.Quantile(1), 3600);
}

TEST(LatencyHistogramTest, MergedIsAsIfAllHadBeenAdded) {
  LatencyHistogram all, one, two;
  for (int i = 1; i <= 100; ++i) {
    all.Add(i * 1e-4);
    (i % 3 == 0 ? one : two).Add(i * 1e-4);
  }
  one.Merge(two);
  EXPECT_EQ(one.count(), 100);
  EXPECT_EQ(one.max(), all.max());
  EXPECT_NEAR(one.mean(), 50.5e-4, 1e-12);
  for (const double p : {0.1, 0.5, 0.99}) EXPECT_EQ(one.Quantile(p), all.Quantile(p));
}

TEST(LatencyHistogramTest, OctavesHoldEverything) {
  LatencyHistogram histogram;
  std::vector<double> values = {100e-9, 1e-6, 1.5e-6, 1e-3, 1e-3, 0.7, 3600};
  for (const double value : values) histogram.Add(value);
  double lower = 0;
  int64_t counted = 0;
  for (const auto& [upper, count] : histogram.Octaves()) {
    EXPECT_GT(upper, lower);
    const auto inside = std::count_if(values.begin(), values.end(),
                                      [&, u = upper](double v) { return v >= lower && v < u; });
    EXPECT_EQ(count, inside) << "below " << upper;
    lower = upper;
    counted += count;
  }
  EXPECT_EQ(counted, static_cast<int64_t>(values.size()));
}

}  // namespace
}  // namespace laplace::client
