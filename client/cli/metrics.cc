#include "client/cli/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace laplace::cli {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

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

double Accuracy(const std::vector<float>& probabilities, int64_t n_classes,
                const std::vector<int64_t>& labels) {
  if (labels.empty()) return kNan;
  int64_t right = 0;
  for (size_t n = 0; n < labels.size(); ++n) {
    right += ArgMax(probabilities, n_classes, n) == labels[n];
  }
  return static_cast<double>(right) / labels.size();
}

double NegativeLogLikelihood(const std::vector<float>& probabilities, int64_t n_classes,
                             const std::vector<int64_t>& labels) {
  if (labels.empty()) return kNan;
  double sum = 0;
  for (size_t n = 0; n < labels.size(); ++n) {
    const float p = probabilities[n * n_classes + labels[n]];
    sum -= std::log(std::max<double>(p, std::numeric_limits<float>::min()));
  }
  return sum / labels.size();
}

double ExpectedCalibrationError(const std::vector<float>& probabilities, int64_t n_classes,
                                const std::vector<int64_t>& labels, int bins) {
  if (labels.empty()) return kNan;
  std::vector<double> gap(bins, 0);  // rows right minus sum of confidences
  for (size_t n = 0; n < labels.size(); ++n) {
    const int64_t predicted = ArgMax(probabilities, n_classes, n);
    const double confidence = probabilities[n * n_classes + predicted];
    const int bin = std::clamp(static_cast<int>(std::ceil(confidence * bins)) - 1, 0, bins - 1);
    gap[bin] += (predicted == labels[n]) - confidence;
  }
  double sum = 0;
  for (double g : gap) sum += std::abs(g);
  return sum / labels.size();
}

double Auroc(const std::vector<double>& in, const std::vector<double>& out) {
  if (in.empty() || out.empty()) return kNan;
  std::vector<std::pair<double, bool>> all;  // score, is from `out`
  all.reserve(in.size() + out.size());
  for (double score : in) all.emplace_back(score, false);
  for (double score : out) all.emplace_back(score, true);
  for (const auto& [score, is_out] : all) {
    if (std::isnan(score)) return kNan;
  }
  std::sort(all.begin(), all.end());
  double wins = 0;
  double below = 0;  // members of `in` with a smaller score than the present group of ties
  for (size_t i = 0; i < all.size();) {
    double tied_in = 0;
    double tied_out = 0;
    const double score = all[i].first;
    for (; i < all.size() && all[i].first == score; ++i) (all[i].second ? tied_out : tied_in) += 1;
    wins += tied_out * (below + tied_in / 2);
    below += tied_in;
  }
  return wins / (static_cast<double>(in.size()) * out.size());
}

}  // namespace laplace::cli
