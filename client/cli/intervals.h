// How sure a number is: bootstrap percentile intervals and exact binomial intervals.
//
// Everything is seeded: the same seed gives the same intervals, however many threads there are.
// Pure functions, thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace laplace::cli {

// Both ends are NaN where there is no interval.
struct Interval {
  double lower = 0;
  double upper = 0;
};

struct BootstrapOptions {
  int64_t replicates = 1000;  // 0: no intervals
  double confidence = 0.95;   // in (0, 1)
  uint64_t seed = 0;
  int threads = 0;  // 0: one for each processor
};

// Draws counts.size() examples with replacement and sets counts[n] to how often example n came. The
// draw depends on (seed, stream, replicate) alone: a counter-based generator (SplitMix64, Steele et
// al. 2014). Different streams are independent.
void Resample(uint64_t seed, uint64_t stream, int64_t replicate, std::vector<int32_t>& counts);

// Splits [0, options.replicates) into consecutive ranges and calls `work(begin, end)` for each, at
// the same time on several threads; the range that begins with 0 runs on the caller's.
void ForReplicates(const BootstrapOptions& options,
                   const std::function<void(int64_t begin, int64_t end)>& work);

// The (1 -+ confidence) / 2 quantiles of a statistic's replicates (Efron 1979), with linear
// interpolation between order statistics; NaN without replicates or if one of them is NaN.
Interval PercentileInterval(std::vector<double> replicates, double confidence);

// The exact interval for a binomial proportion of which `hits` of `n` were seen (Clopper & Pearson
// 1934): it covers at least as often as `confidence` says. NaN if n is 0.
Interval BinomialInterval(int64_t hits, int64_t n, double confidence);

}  // namespace laplace::cli
