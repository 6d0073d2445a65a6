// What predictions say and how good they and scores are: accuracy, negative log-likelihood,
// calibration error, AUROC.
//
// Probabilities are [N, C], row-major, rows summing to one; labels are N classes in [0, C). With no
// examples every metric is NaN. Preconditions on sizes are the caller's. Pure functions,
// thread-safe.
#pragma once

#include <cstdint>
#include <vector>

namespace laplace::cli {

// Index of the largest of `n_classes` probabilities of row `row`; the first one in a tie.
int64_t ArgMax(const std::vector<float>& probabilities, int64_t n_classes, int64_t row);

// Indices of the probabilities of row `row` that are at least 0.5, where each label is there or not
// on its own.
std::vector<int64_t> LikelyLabels(const std::vector<float>& probabilities, int64_t n_labels,
                                  int64_t row);

// Share of rows whose most probable class is the label.
double Accuracy(const std::vector<float>& probabilities, int64_t n_classes,
                const std::vector<int64_t>& labels);

// Mean of -log p(label), nats. A probability that has underflowed counts as the smallest normal
// float, 1.2e-38.
double NegativeLogLikelihood(const std::vector<float>& probabilities, int64_t n_classes,
                             const std::vector<int64_t>& labels);

// Expected calibration error: sum over bins of (rows in bin / N) * |accuracy - mean confidence|,
// where the confidence of a row is its largest probability and the bins ((b-1)/bins, b/bins] have
// equal width.
double ExpectedCalibrationError(const std::vector<float>& probabilities, int64_t n_classes,
                                const std::vector<int64_t>& labels, int bins = 15);

// Probability that a random member of `out` scores above a random member of `in`, ties counting one
// half (the Mann-Whitney statistic over its maximum). 1 separates perfectly, 0.5 is chance. NaN
// scores give NaN.
double Auroc(const std::vector<double>& in, const std::vector<double>& out);

}  // namespace laplace::cli
