// What predictions say and how good they are: accuracy, negative log-likelihood, calibration error,
// Brier score; for independent labels and regression what takes their place.
//
// Probabilities and means are [N, C], row-major. Every metric is kept as what each example
// contributes to it (ExampleMetric), so that the metric of a resample is a weighted sum. With no
// examples every metric is NaN. How good out-of-distribution scores are is in
// detection_metrics.h. Preconditions on sizes are the caller's. Pure functions, thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace laplace::cli {

// Index of the largest of `n_classes` probabilities of row `row`; the first one in a tie.
int64_t ArgMax(const std::vector<float>& probabilities, int64_t n_classes, int64_t row);

// Indices of the probabilities of row `row` that are at least 0.5, where each label is there or not
// on its own.
std::vector<int64_t> LikelyLabels(const std::vector<float>& probabilities, int64_t n_labels,
                                  int64_t row);

// A metric of N examples with W parts each; what happens to the parts says `kind`.
struct ExampleMetric {
  enum class Kind {
    kMean,       // mean of the parts
    kRootMean,   // its square root
    kBinnedGap,  // sum over bins of |sum of the parts in the bin| / (N * W)
  };
  std::string name;
  Kind kind = Kind::kMean;
  int64_t n_examples = 0;     // N
  std::vector<double> parts;  // [N, W]
  std::vector<int32_t> bins;  // [N, W], kBinnedGap only
  int32_t n_bins = 0;         // kBinnedGap only
};

double Value(const ExampleMetric& metric);
// Of a resample in which example n stands counts[n] times.
double Value(const ExampleMetric& metric, const std::vector<int32_t>& counts);

inline constexpr int kCalibrationBins = 15;

// Categorical likelihood: probabilities sum to one in every row, labels are N classes in [0, C).
//   accuracy  share of rows whose most probable class is the label
//   nll       mean of -log p(label), nats; a probability that has underflowed counts as the
//             smallest normal float, 1.2e-38
//   ece       expected calibration error: sum over bins of (rows in bin / N) * |accuracy - mean
//             confidence|, where the confidence of a row is its largest probability and the bins
//             ((b-1)/bins, b/bins] have equal width (Guo et al. 2017)
//   brier     mean over rows of sum over classes (p_c - [c is the label])^2, in [0, 2] (Brier 1950)
std::vector<ExampleMetric> CategoricalMetrics(const std::vector<float>& probabilities,
                                              int64_t n_classes,
                                              const std::vector<int64_t>& labels);

// Bernoulli likelihood: C independent labels, targets [N, C] of 0 and 1.
//   label_accuracy   share of the N * C labels for which p >= 0.5 says what is there
//   subset_accuracy  share of rows in which that is right for every label
//   nll              mean over rows and labels of -log p of what is there, nats, clamped as above
//   ece              for every label, sum over bins of its p of (rows in bin / N) * |share of rows
//                    that have the label - mean p|; mean over labels
//   brier            mean over rows and labels of (p - target)^2, in [0, 1]
std::vector<ExampleMetric> BernoulliMetrics(const std::vector<float>& probabilities,
                                            int64_t n_labels, const std::vector<float>& targets);

// Gaussian likelihood: targets [N, C], predictive N(means, variances) of every output, variances
// [N, C] in squared target units.
//   rmse         root of the mean over rows and outputs of (mean - target)^2, target units
//   nll          mean over rows and outputs of -log N(target; mean, variance), nats
//   coverage_95  share of targets within 1.96 standard deviations of the mean; 0.95 is right
// Without variances (empty, or one that is not above zero) rmse only.
std::vector<ExampleMetric> GaussianMetrics(const std::vector<float>& means,
                                           const std::vector<double>& variances, int64_t n_outputs,
                                           const std::vector<double>& targets);

// Single ones of CategoricalMetrics.
double Accuracy(const std::vector<float>& probabilities, int64_t n_classes,
                const std::vector<int64_t>& labels);
double NegativeLogLikelihood(const std::vector<float>& probabilities, int64_t n_classes,
                             const std::vector<int64_t>& labels);
double ExpectedCalibrationError(const std::vector<float>& probabilities, int64_t n_classes,
                                const std::vector<int64_t>& labels, int bins = kCalibrationBins);
double BrierScore(const std::vector<float>& probabilities, int64_t n_classes,
                  const std::vector<int64_t>& labels);

}  // namespace laplace::cli
