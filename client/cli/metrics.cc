#include "client/cli/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace laplace::cli {
namespace {

using Kind = ExampleMetric::Kind;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// 0.975 quantile of the standard normal distribution.
constexpr double kNormal975 = 1.959963984540054;

double ClampedLog(double p) {
  return std::log(std::max<double>(p, std::numeric_limits<float>::min()));
}

// Bins ((b-1)/bins, b/bins].
int32_t Bin(double p, int bins) {
  return std::clamp(static_cast<int>(std::ceil(p * bins)) - 1, 0, bins - 1);
}

// `part(i)` for i in [0, n_parts).
template <typename Part>
ExampleMetric Metric(const char* name, Kind kind, int64_t n_examples, int64_t n_parts,
                     const Part& part) {
  ExampleMetric metric;
  metric.name = name;
  metric.kind = kind;
  metric.n_examples = n_examples;
  metric.parts.reserve(n_parts);
  for (int64_t i = 0; i < n_parts; ++i) metric.parts.push_back(part(i));
  return metric;
}

ExampleMetric AccuracyMetric(const std::vector<float>& p, int64_t n_classes,
                             const std::vector<int64_t>& labels) {
  const int64_t rows = labels.size();
  return Metric("accuracy", Kind::kMean, rows, rows,
                [&](int64_t n) { return ArgMax(p, n_classes, n) == labels[n]; });
}

ExampleMetric NllMetric(const std::vector<float>& p, int64_t n_classes,
                        const std::vector<int64_t>& labels) {
  const int64_t rows = labels.size();
  return Metric("nll", Kind::kMean, rows, rows,
                [&](int64_t n) { return -ClampedLog(p[n * n_classes + labels[n]]); });
}

ExampleMetric EceMetric(const std::vector<float>& p, int64_t n_classes,
                        const std::vector<int64_t>& labels, int bins) {
  const int64_t rows = labels.size();
  std::vector<int32_t> bin_of_row(rows);
  ExampleMetric metric = Metric("ece", Kind::kBinnedGap, rows, rows, [&](int64_t n) {
    const int64_t predicted = ArgMax(p, n_classes, n);
    const double confidence = p[n * n_classes + predicted];
    bin_of_row[n] = Bin(confidence, bins);
    return (predicted == labels[n]) - confidence;
  });
  metric.bins = std::move(bin_of_row);
  metric.n_bins = bins;
  return metric;
}

ExampleMetric BrierMetric(const std::vector<float>& p, int64_t n_classes,
                          const std::vector<int64_t>& labels) {
  const int64_t rows = labels.size();
  return Metric("brier", Kind::kMean, rows, rows, [&](int64_t n) {
    double sum = 0;
    for (int64_t c = 0; c < n_classes; ++c) {
      const double gap = double{p[n * n_classes + c]} - (c == labels[n]);
      sum += gap * gap;
    }
    return sum;
  });
}

template <typename Weight>
double WeightedValue(const ExampleMetric& metric, const Weight& weight) {
  if (metric.n_examples == 0) return kNan;
  const int64_t width = metric.parts.size() / metric.n_examples;
  const double total = static_cast<double>(metric.parts.size());
  if (metric.kind == Kind::kBinnedGap) {
    std::vector<double> gap(metric.n_bins, 0);
    for (int64_t n = 0, i = 0; n < metric.n_examples; ++n) {
      for (int64_t part = 0; part < width; ++part, ++i) {
        gap[metric.bins[i]] += weight(n) * metric.parts[i];
      }
    }
    double sum = 0;
    for (double g : gap) sum += std::abs(g);
    return sum / total;
  }
  double sum = 0;
  for (int64_t n = 0, i = 0; n < metric.n_examples; ++n) {
    for (int64_t part = 0; part < width; ++part, ++i) sum += weight(n) * metric.parts[i];
  }
  return metric.kind == Kind::kRootMean ? std::sqrt(sum / total) : sum / total;
}

}  // namespace

int64_t ArgMax(const std::vector<float>& probabilities, int64_t n_classes, int64_t row) {
  const auto begin = probabilities.begin() + row * n_classes;
  return std::max_element(begin, begin + n_classes) - begin;
}

std::vector<int64_t> LikelyLabels(const std::vector<float>& probabilities, int64_t n_labels,
                                  int64_t row) {
  std::vector<int64_t> labels;
  for (int64_t label = 0; label < n_labels; ++label) {
    if (probabilities[row * n_labels + label] >= 0.5f) labels.push_back(label);
  }
  return labels;
}

double Value(const ExampleMetric& metric) {
  return WeightedValue(metric, [](int64_t) { return 1.0; });
}

double Value(const ExampleMetric& metric, const std::vector<int32_t>& counts) {
  return WeightedValue(metric, [&counts](int64_t n) { return static_cast<double>(counts[n]); });
}

std::vector<ExampleMetric> CategoricalMetrics(const std::vector<float>& probabilities,
                                              int64_t n_classes,
                                              const std::vector<int64_t>& labels) {
  return {AccuracyMetric(probabilities, n_classes, labels),
          NllMetric(probabilities, n_classes, labels),
          EceMetric(probabilities, n_classes, labels, kCalibrationBins),
          BrierMetric(probabilities, n_classes, labels)};
}

std::vector<ExampleMetric> BernoulliMetrics(const std::vector<float>& probabilities,
                                            int64_t n_labels, const std::vector<float>& targets) {
  const int64_t parts = targets.size();
  const int64_t rows = n_labels > 0 ? parts / n_labels : 0;
  const auto right = [&](int64_t i) { return (probabilities[i] >= 0.5f) == (targets[i] == 1); };
  ExampleMetric ece = Metric("ece", Kind::kBinnedGap, rows, parts,
                             [&](int64_t i) { return double{targets[i]} - probabilities[i]; });
  ece.n_bins = static_cast<int32_t>(n_labels) * kCalibrationBins;
  for (int64_t i = 0; i < parts; ++i) {
    ece.bins.push_back(static_cast<int32_t>(i % n_labels) * kCalibrationBins +
                       Bin(probabilities[i], kCalibrationBins));
  }
  return {Metric("label_accuracy", Kind::kMean, rows, parts, right),
          Metric("subset_accuracy", Kind::kMean, rows, rows,
                 [&](int64_t n) {
                   bool all = true;
                   for (int64_t c = 0; c < n_labels; ++c) all = all && right(n * n_labels + c);
                   return all;
                 }),
          Metric("nll", Kind::kMean, rows, parts,
                 [&](int64_t i) {
                   const double p = probabilities[i];
                   return -ClampedLog(targets[i] == 1 ? p : 1 - p);
                 }),
          std::move(ece), Metric("brier", Kind::kMean, rows, parts, [&](int64_t i) {
            const double gap = double{probabilities[i]} - targets[i];
            return gap * gap;
          })};
}

std::vector<ExampleMetric> GaussianMetrics(const std::vector<float>& means,
                                           const std::vector<double>& variances, int64_t n_outputs,
                                           const std::vector<double>& targets) {
  const int64_t parts = targets.size();
  const int64_t rows = n_outputs > 0 ? parts / n_outputs : 0;
  const auto squared = [&](int64_t i) {
    const double error = means[i] - targets[i];
    return error * error;
  };
  std::vector<ExampleMetric> metrics = {Metric("rmse", Kind::kRootMean, rows, parts, squared)};
  const bool known =
      variances.size() == targets.size() &&
      std::all_of(variances.begin(), variances.end(), [](double v) { return v > 0; });
  if (!known) return metrics;
  metrics.push_back(Metric("nll", Kind::kMean, rows, parts, [&](int64_t i) {
    return 0.5 * (std::log(2 * M_PI * variances[i]) + squared(i) / variances[i]);
  }));
  metrics.push_back(Metric("coverage_95", Kind::kMean, rows, parts, [&](int64_t i) {
    return squared(i) <= kNormal975 * kNormal975 * variances[i];
  }));
  return metrics;
}

double Accuracy(const std::vector<float>& probabilities, int64_t n_classes,
                const std::vector<int64_t>& labels) {
  return Value(AccuracyMetric(probabilities, n_classes, labels));
}

double NegativeLogLikelihood(const std::vector<float>& probabilities, int64_t n_classes,
                             const std::vector<int64_t>& labels) {
  return Value(NllMetric(probabilities, n_classes, labels));
}

double ExpectedCalibrationError(const std::vector<float>& probabilities, int64_t n_classes,
                                const std::vector<int64_t>& labels, int bins) {
  return Value(EceMetric(probabilities, n_classes, labels, bins));
}

double BrierScore(const std::vector<float>& probabilities, int64_t n_classes,
                  const std::vector<int64_t>& labels) {
  return Value(BrierMetric(probabilities, n_classes, labels));
}

}  // namespace laplace::cli
