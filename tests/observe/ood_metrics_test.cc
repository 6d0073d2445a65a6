#include "server/observe/ood_metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace laplaced {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const OodSource kNet{"net", 1, "p-1"};

// Answers of a score "energy" with threshold 0, quantiles -1, 0, 2 and a target of .05.
void Observe(OodMetrics& metrics, const std::vector<double>& values, const OodSource& source = kNet,
             const std::vector<double>& quantiles = {-1, 0, 2},
             const std::string& name = "energy") {
  std::vector<bool> flagged;
  for (const double value : values) flagged.push_back(!(value <= 0));
  metrics.Observe(source, {name, values, flagged, 0.05, 0.075, quantiles});
}

std::string Labels(const OodSource& source = kNet, const std::string& score = "energy") {
  return absl::StrCat("{model=\"", source.model, "\",posterior=\"", source.posterior_id,
                      "\",score=\"", score, "\",version=\"", source.version, "\"}");
}

// Value of a series in the text; NaN if it is not there. The labels may stand in any order.
double ValueOf(const Metrics& metrics, const std::string& name, const std::string& labels) {
  const auto parts = [](std::string text) {
    std::set<std::string> set;
    std::istringstream stream(text.substr(1, text.size() - 2));
    for (std::string part; std::getline(stream, part, ',');) set.insert(part);
    return set;
  };
  std::istringstream lines(metrics.Text());
  for (std::string line; std::getline(lines, line);) {
    const size_t brace = line.find('{'), end = line.find("} ");
    if (line[0] == '#' || end == std::string::npos || line.substr(0, brace) != name) continue;
    if (parts(line.substr(brace, end - brace + 1)) != parts(labels)) continue;
    double value = 0;
    EXPECT_TRUE(absl::SimpleAtod(line.substr(end + 2), &value)) << line;
    return value;
  }
  return std::nan("");
}

// The public contract: what dashboards and alert rules are written against.
TEST(OodMetricsTest, NamesTypesAndLabelsAreTheseAndNoOthers) {
  Metrics metrics;
  OodMetrics ood(metrics);
  Observe(ood, {-2, 1});
  ood.ObserveEpistemic(kNet, {0.1});
  std::set<std::string> types, names, labels;
  std::istringstream lines(metrics.Text());
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("# TYPE ", 0) == 0) types.insert(line.substr(7));
    if (line[0] == '#') continue;
    names.insert(line.substr(0, line.find('{')));
    std::istringstream parts(line.substr(line.find('{') + 1, line.find("} ") - line.find('{') - 1));
    for (std::string part; std::getline(parts, part, ',');) {
      labels.insert(part.substr(0, part.find('=')));
    }
  }
  EXPECT_THAT(types,
              testing::ElementsAre(
                  "laplace_epistemic histogram", "laplace_ood_calibrated_rate gauge",
                  "laplace_ood_calibrated_rate_upper gauge", "laplace_ood_flagged_total counter",
                  "laplace_ood_rate gauge", "laplace_ood_score histogram",
                  "laplace_ood_scored_total counter", "laplace_ood_window_examples gauge"));
  EXPECT_THAT(names,
              testing::ElementsAre("laplace_epistemic_bucket", "laplace_epistemic_count",
                                   "laplace_epistemic_sum", "laplace_ood_calibrated_rate",
                                   "laplace_ood_calibrated_rate_upper", "laplace_ood_flagged_total",
                                   "laplace_ood_rate", "laplace_ood_score_bucket",
                                   "laplace_ood_score_count", "laplace_ood_score_sum",
                                   "laplace_ood_scored_total", "laplace_ood_window_examples"));
  EXPECT_THAT(labels, testing::ElementsAre("le", "model", "posterior", "score", "version"));
}

TEST(OodMetricsTest, CountsExamplesAndVerdicts) {
  Metrics metrics;
  OodMetrics ood(metrics);
  Observe(ood, {-2, -1, 0.5});
  Observe(ood, {0, 3});
  EXPECT_EQ(ValueOf(metrics, "laplace_ood_scored_total", Labels()), 5);
  EXPECT_EQ(ValueOf(metrics, "laplace_ood_flagged_total", Labels()), 2);
  EXPECT_EQ(ValueOf(metrics, "laplace_ood_rate", Labels()), 0.4);
  EXPECT_EQ(ValueOf(metrics, "laplace_ood_window_examples", Labels()), 5);
  EXPECT_EQ(ValueOf(metrics, "laplace_ood_calibrated_rate", Labels()), 0.05);
  EXPECT_EQ(ValueOf(metrics, "laplace_ood_calibrated_rate_upper", Labels()), 0.075);
}

double Bucket(const Metrics& metrics, const std::string& bound) {
  std::string labels = Labels();
  labels.insert(labels.size() - 1, absl::StrCat(",le=\"", bound, "\""));
  return ValueOf(metrics, "laplace_ood_score_bucket", labels);
}

TEST(OodMetricsTest, BucketsAreTheDistinctCalibrationQuantiles) {
  Metrics metrics;
  OodMetrics ood(metrics);
  const double infinity = std::numeric_limits<double>::infinity();
  const std::vector<double> quantiles = {2, -1, 0, 0, 2, infinity, std::nan("")};
  Observe(ood, {-1.5, -1, -0.5, 0, 2, 2.5}, kNet, quantiles);
  // A bucket holds what is at most its bound.
  EXPECT_EQ(Bucket(metrics, "-1"), 2);
  EXPECT_EQ(Bucket(metrics, "0"), 4);
  EXPECT_EQ(Bucket(metrics, "2"), 5);
  EXPECT_EQ(Bucket(metrics, "+Inf"), 6);
  EXPECT_EQ(ValueOf(metrics, "laplace_ood_score_count", Labels()), 6);
  EXPECT_EQ(ValueOf(metrics, "laplace_ood_score_sum", Labels()), 1.5);
}

TEST(OodMetricsTest, WhatIsNoNumberIsFarOutAndSpoilsNoSum) {
  Metrics metrics;
  OodMetrics ood(metrics);
  const double infinity = std::numeric_limits<double>::infinity();
  Observe(ood, {std::nan(""), infinity, -infinity, 1});
  EXPECT_EQ(Bucket(metrics, "-1"), 1);
  EXPECT_EQ(Bucket(metrics, "2"), 2);
  EXPECT_EQ(Bucket(metrics, "+Inf"), 4);
  EXPECT_EQ(ValueOf(metrics, "laplace_ood_score_sum", Labels()), 1);
  EXPECT_EQ(ValueOf(metrics, "laplace_ood_flagged_total", Labels()), 3);
}

TEST(OodMetricsTest, EpistemicPartsFallIntoHalfDecades) {
  Metrics metrics;
  OodMetrics ood(metrics);
  const double infinity = std::numeric_limits<double>::infinity();
  ood.ObserveEpistemic(kNet, {0, 0.1, 0.2, std::nan("")});
  ood.ObserveEpistemic(kNet, {0.3, infinity});
  const auto labels = [](const std::string& more) {
    return absl::StrCat("{model=\"net\",posterior=\"p-1\",version=\"1\"", more, "}");
  };
  const auto bucket = [&](const std::string& bound) {
    return ValueOf(metrics, "laplace_epistemic_bucket",
                   labels(absl::StrCat(",le=\"", bound, "\"")));
  };
  EXPECT_EQ(bucket("0.03"), 1);
  EXPECT_EQ(bucket("0.1"), 2);
  EXPECT_EQ(bucket("0.3"), 4);
  EXPECT_EQ(bucket("1000"), 4);
  EXPECT_EQ(bucket("+Inf"), 6);
  EXPECT_NEAR(ValueOf(metrics, "laplace_epistemic_sum", labels("")), 0.6, 1e-12);
}

TEST(OodMetricsTest, NoHistogramWithoutQuantiles) {
  Metrics metrics;
  OodMetrics ood(metrics);
  Observe(ood, {1}, kNet, {});
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("laplace_ood_score_bucket")));
  EXPECT_EQ(ValueOf(metrics, "laplace_ood_flagged_total", Labels()), 1);
}

TEST(OodMetricsTest, RateIsOfTheLastThousand) {
  Metrics metrics;
  OodMetrics ood(metrics);
  // Against a plain recount of the last thousand, over answers of sizes that do not divide it.
  std::vector<bool> all;
  for (int i = 0; i < 40; ++i) {
    std::vector<double> values;
    for (int k = 0; k < 97; ++k) values.push_back((i * 97 + k) % (3 + i) == 0 ? 1 : -1);
    Observe(ood, values);
    for (const double value : values) all.push_back(value > 0);
    const size_t count = std::min<size_t>(all.size(), 1000);
    const auto flagged =
        std::count(all.end() - static_cast<std::ptrdiff_t>(count), all.end(), true);
    ASSERT_DOUBLE_EQ(ValueOf(metrics, "laplace_ood_rate", Labels()),
                     static_cast<double>(flagged) / static_cast<double>(count));
    ASSERT_EQ(ValueOf(metrics, "laplace_ood_window_examples", Labels()), count);
  }
  // One answer larger than the window.
  std::vector<double> large(1500, -1);
  large[1499] = 1;
  Observe(ood, large);
  EXPECT_EQ(ValueOf(metrics, "laplace_ood_rate", Labels()), 0.001);
  EXPECT_EQ(ValueOf(metrics, "laplace_ood_scored_total", Labels()), 40 * 97 + 1500);
}

// A clock that a test moves.
struct FakeClock {
  std::chrono::steady_clock::time_point now;
  OodMetrics::Now Function() {
    return [this] { return now; };
  }
};

TEST(OodMetricsTest, AnotherPosteriorHasBucketsAndRatesOfItsOwn) {
  Metrics metrics;
  OodMetrics ood(metrics);
  const OodSource other{"net", 1, "p-2"};
  Observe(ood, {1, 1});
  Observe(ood, {-5}, other, {-10, -4});
  EXPECT_EQ(ValueOf(metrics, "laplace_ood_rate", Labels()), 1);
  EXPECT_EQ(ValueOf(metrics, "laplace_ood_rate", Labels(other)), 0);
  std::string bucket = Labels(other);
  bucket.insert(bucket.size() - 1, ",le=\"-4\"");
  EXPECT_EQ(ValueOf(metrics, "laplace_ood_score_bucket", bucket), 1);
  // The old one's do not go on with the new one's.
  EXPECT_EQ(ValueOf(metrics, "laplace_ood_scored_total", Labels()), 2);
}

TEST(OodMetricsTest, SeriesOfAPosteriorThatIsOutOfUseGo) {
  Metrics metrics;
  FakeClock clock;
  OodMetrics ood(metrics, clock.Function());
  const OodSource next{"net", 1, "p-2"}, elsewhere{"net", 2, "p-3"};
  Observe(ood, {1});
  Observe(ood, {1}, elsewhere);
  clock.now += OodMetrics::kStaleAfter;
  Observe(ood, {1}, next);
  // A stream may still answer with the old one.
  EXPECT_EQ(ValueOf(metrics, "laplace_ood_scored_total", Labels()), 1);
  clock.now += std::chrono::seconds(1);
  Observe(ood, {1}, next);
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("p-1")));
  EXPECT_EQ(ValueOf(metrics, "laplace_ood_scored_total", Labels(next)), 2);
  // Silence alone is no reason: another version's posterior is nobody's successor.
  EXPECT_EQ(ValueOf(metrics, "laplace_ood_scored_total", Labels(elsewhere)), 1);
  // Back again, it starts over, as a counter may.
  Observe(ood, {1});
  EXPECT_EQ(ValueOf(metrics, "laplace_ood_scored_total", Labels()), 1);
}

TEST(OodMetricsTest, SeriesAreBounded) {
  Metrics metrics;
  OodMetrics ood(metrics);
  for (int i = 0; i < 500; ++i) {
    Observe(ood, {1}, {absl::StrCat("m", i % 5), 1, absl::StrCat("p-", i)});
    Observe(ood, {1});  // never the one that has been silent for longest
  }
  size_t series = 0;
  std::istringstream lines(metrics.Text());
  for (std::string line; std::getline(lines, line);) {
    series += line.rfind("laplace_ood_scored_total{", 0) == 0;
  }
  EXPECT_EQ(series, OodMetrics::kMaxSources);
  EXPECT_EQ(ValueOf(metrics, "laplace_ood_scored_total", Labels()), 500);
  EXPECT_THAT(metrics.Text(), HasSubstr("p-499"));
}

TEST(OodMetricsTest, ThreadsMayObserveWhileMetricsAreRead) {
  Metrics metrics;
  OodMetrics ood(metrics);
  Observe(ood, {});
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&ood, t] {
      for (int i = 0; i < 500; ++i) {
        Observe(ood, {1, -1});
        Observe(ood, {1}, {"net", 1, absl::StrCat("q-", t, "-", i % 40)});
      }
    });
  }
  for (int i = 0; i < 50; ++i) EXPECT_THAT(metrics.Text(), HasSubstr("laplace_ood"));
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(ValueOf(metrics, "laplace_ood_scored_total", Labels()), 3000);
  EXPECT_EQ(ValueOf(metrics, "laplace_ood_flagged_total", Labels()), 1500);
}

}  // namespace
}  // namespace laplaced
