// Thresholds from in-distribution data alone: flag what lies above the (1 - target rate) quantile.
//
// With n calibration scores, the threshold is the k-th smallest, k = ceil((n + 1)(1 - rate)) capped
// at n: the split-conformal choice, for which a fresh in-distribution example exceeds it with
// probability at most `rate`. The rate that a given calibration set really achieves is random: if
// no scores tie, it follows a Beta(n + 1 - k, k) law, whose central 95 % is reported. Pure
// functions; thread-safe.
#pragma once

#include <vector>

namespace laplaced {

// Probabilities at which the quantiles of calibration scores are kept.
inline constexpr double kIdQuantiles[] = {.01, .05, .1, .25, .5, .75, .9, .95, .99};

struct OodThreshold {
  double threshold = 0;
  double rate_lower = 0;
  double rate_upper = 0;
};

// REQUIRES: scores is not empty, 0 < target_id_rate < 1.
OodThreshold CalibrateThreshold(std::vector<double> scores, double target_id_rate);

// The scores' quantiles at kIdQuantiles, between neighbours in proportion (as numpy.quantile).
// REQUIRES: scores is not empty.
std::vector<double> IdQuantiles(std::vector<double> scores);

// P(X <= x) for X ~ Beta(a, b) with whole a, b >= 1: the binomial tail, summed.
double BetaCdf(double x, double a, double b);

}  // namespace laplaced
