// Counts of durations in bins whose width grows with the duration, so that quantiles from
// nanoseconds to minutes are right to 0.4 % in constant memory, however many durations there are.
//
// Every power of two is cut into 128 equal bins (the layout of HdrHistogram); a quantile is the
// middle of its bin, and the largest duration is kept as it is. Not synchronised.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace laplace::client {

class LatencyHistogram {
 public:
  // Negative durations and NaN count as 0, those above an hour as an hour.
  void Add(double seconds);
  void Merge(const LatencyHistogram& other);

  int64_t count() const { return count_; }
  double max() const { return max_; }
  // 0 if it is empty.
  double mean() const;

  // The smallest duration that at least a share `p` of all does not exceed; 0 if it is empty.
  double Quantile(double p) const;

  // Durations by powers of two: an upper end in seconds, and how many lie below it but not below
  // the one before. From the first that is not empty to the last.
  std::vector<std::pair<double, int64_t>> Octaves() const;

 private:
  // Nanoseconds below 2 * kSteps have a bin each; 2^42 ns is more than an hour.
  static constexpr int kStepBits = 7;
  static constexpr uint64_t kSteps = 1 << kStepBits;
  static constexpr int kLargestBits = 42;
  static constexpr size_t kBins = (kLargestBits - kStepBits + 1) << kStepBits;

  static size_t BinOf(uint64_t nanoseconds);
  static double MiddleOf(size_t bin);

  std::array<int64_t, kBins> bins_ = {};
  int64_t count_ = 0;
  double sum_ = 0;
  double max_ = 0;
};

}  // namespace laplace::client
