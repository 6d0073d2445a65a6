// Metrics against scikit-learn, which tests/reference/metrics_reference.py runs on seeded random
// scores, with and without ties.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/detection_metrics.h"
#include "client/cli/intervals.h"
#include "client/cli/metrics.h"
#include "formats/npz.h"
#include "tests/support/python.h"

namespace laplace::cli {
namespace {

namespace test_support = ::laplaced::test_support;
using ::laplaced::Array;

class MetricsReference : public ::testing::Test {
 protected:
  // Runs the script once for all tests.
  static void SetUpTestSuite() {
    const std::string python = test_support::FindPython("numpy, scipy, sklearn");
    if (python.empty()) return;
    const std::string path =
        absl::StrCat(::testing::TempDir(), "/metrics_reference_", getpid(), ".npz");
    const test_support::PythonResult result = test_support::RunPython(
        python, "import runpy, sys; runpy.run_path(sys.argv.pop(1))",
        {absl::StrCat(LAPLACE_REFERENCE_FOLDER, "/metrics_reference.py"), path});
    ASSERT_EQ(result.exit_status, 0) << result.output;
    auto arrays = ::laplaced::ReadNpz(path);
    std::filesystem::remove(path);
    ASSERT_TRUE(arrays.ok()) << arrays.status();
    arrays_ = *std::move(arrays);
  }

  void SetUp() override {
    if (arrays_.empty()) GTEST_SKIP() << "no Python with scikit-learn (Debian: python3-sklearn)";
  }

  bool Has(const std::string& name) const { return arrays_.count(name) > 0; }

  template <typename T>
  std::vector<T> Values(const std::string& name) const {
    const Array& array = arrays_.at(name);
    return {array.data<T>(), array.data<T>() + array.bytes.size() / sizeof(T)};
  }

  inline static std::map<std::string, Array> arrays_;
};

TEST_F(MetricsReference, DetectionMetricsAreThoseOfScikitLearn) {
  int cases = 0;
  for (; Has(absl::StrCat("d", cases, "/in")); ++cases) {
    const std::string prefix = absl::StrCat("d", cases);
    const DetectionValues values =
        DetectionMetrics(Values<double>(prefix + "/in"), Values<double>(prefix + "/out"));
    const std::vector<double> expected = Values<double>(prefix + "/expected");
    ASSERT_EQ(expected.size(), values.size());
    for (int i = 0; i < kDetectionMetrics; ++i) {
      EXPECT_NEAR(values[i], expected[i], 1e-12) << prefix << " " << DetectionMetricName(i);
    }
  }
  EXPECT_GE(cases, 10);
}

TEST_F(MetricsReference, ClassificationMetricsAreThoseOfScikitLearnAndNumPy) {
  int cases = 0;
  for (; Has(absl::StrCat("c", cases, "/p")); ++cases) {
    const std::string prefix = absl::StrCat("c", cases);
    const std::vector<ExampleMetric> metrics =
        CategoricalMetrics(Values<float>(prefix + "/p"), arrays_.at(prefix + "/p").shape[1],
                           Values<int64_t>(prefix + "/y"));
    const std::vector<double> expected = Values<double>(prefix + "/expected");
    ASSERT_EQ(expected.size(), metrics.size());
    for (size_t i = 0; i < metrics.size(); ++i) {
      EXPECT_NEAR(Value(metrics[i]), expected[i], 1e-12) << prefix << " " << metrics[i].name;
    }
  }
  EXPECT_GE(cases, 5);
}

TEST_F(MetricsReference, BinomialIntervalsAreThoseOfSciPy) {
  const std::vector<double> rows = Values<double>("binomial");
  ASSERT_FALSE(rows.empty());
  for (size_t i = 0; i < rows.size(); i += 5) {
    const Interval interval = BinomialInterval(static_cast<int64_t>(rows[i]),
                                               static_cast<int64_t>(rows[i + 1]), rows[i + 2]);
    EXPECT_NEAR(interval.lower, rows[i + 3], 1e-10) << rows[i] << " of " << rows[i + 1];
    EXPECT_NEAR(interval.upper, rows[i + 4], 1e-10) << rows[i] << " of " << rows[i + 1];
  }
}

}  // namespace
}  // namespace laplace::cli
