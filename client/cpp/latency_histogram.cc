#include "client/cpp/latency_histogram.h"

#include <algorithm>
#include <cmath>

namespace laplace::client {
namespace {

constexpr double kMostSeconds = 3600;

// Position of the highest bit of a number above 0.
int HighestBit(uint64_t number) { return 63 - __builtin_clzll(number); }

}  // namespace

size_t LatencyHistogram::BinOf(uint64_t nanoseconds) {
  if (nanoseconds < 2 * kSteps) return static_cast<size_t>(nanoseconds);
  const int shift = HighestBit(nanoseconds) - kStepBits;
  return (static_cast<size_t>(shift) << kStepBits) + static_cast<size_t>(nanoseconds >> shift);
}

double LatencyHistogram::MiddleOf(size_t bin) {
  if (bin < 2 * kSteps) return 1e-9 * static_cast<double>(bin);
  const size_t shift = (bin >> kStepBits) - 1;
  const auto least = static_cast<double>((bin - (shift << kStepBits)) << shift);
  const auto width = static_cast<double>(uint64_t{1} << shift);
  return 1e-9 * (least + (width - 1) / 2);
}

void LatencyHistogram::Add(double seconds) {
  const double kept = seconds > 0 ? std::min(seconds, kMostSeconds) : 0;
  ++bins_[BinOf(static_cast<uint64_t>(std::llround(1e9 * kept)))];
  ++count_;
  sum_ += kept;
  max_ = std::max(max_, kept);
}

void LatencyHistogram::Merge(const LatencyHistogram& other) {
  for (size_t i = 0; i < kBins; ++i) bins_[i] += other.bins_[i];
  count_ += other.count_;
  sum_ += other.sum_;
  max_ = std::max(max_, other.max_);
}

double LatencyHistogram::mean() const {
  return count_ == 0 ? 0 : sum_ / static_cast<double>(count_);
}

double LatencyHistogram::Quantile(double p) const {
  const auto rank = static_cast<int64_t>(std::ceil(p * static_cast<double>(count_)));
  if (count_ == 0) return 0;
  if (rank >= count_) return max_;
  int64_t below = 0;
  size_t bin = 0;
  while ((below += bins_[bin]) < std::max<int64_t>(rank, 1)) ++bin;
  return std::min(MiddleOf(bin), max_);
}

std::vector<std::pair<double, int64_t>> LatencyHistogram::Octaves() const {
  std::vector<std::pair<double, int64_t>> octaves;
  int64_t seen = 0;
  // The bins below kSteps, then those of one power of two after the other.
  for (size_t begin = 0; begin < kBins && seen < count_; begin += kSteps) {
    int64_t here = 0;
    for (size_t i = begin; i < begin + kSteps; ++i) here += bins_[i];
    seen += here;
    const double upper = begin == 0 ? static_cast<double>(kSteps)
                                    : std::ldexp(static_cast<double>(2 * kSteps),
                                                 static_cast<int>(begin / kSteps) - 1);
    if (here > 0 || !octaves.empty()) octaves.emplace_back(1e-9 * upper, here);
  }
  return octaves;
}

}  // namespace laplace::client
