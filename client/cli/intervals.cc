#include "client/cli/intervals.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <thread>

namespace laplace::cli {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr uint64_t kWeyl = 0x9E3779B97F4A7C15u;

// SplitMix64's finaliser: a bijection of 64 bits that scatters neighbours.
uint64_t Mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// A number in [0, n), n < 2^32, from the upper half of `bits`; biased by less than n / 2^32.
uint32_t Below(uint64_t bits, uint64_t n) {
  return static_cast<uint32_t>(((bits >> 32) * n) >> 32);
}

// Continued fraction of the incomplete beta function (Lentz's method; DLMF 8.17.22), for
// x < (a + 1) / (a + b + 2).
double BetaFraction(double a, double b, double x) {
  constexpr double kTiny = 1e-300;
  constexpr int kMaxTerms = 100000;
  const auto away_from_zero = [](double v) { return std::abs(v) < kTiny ? kTiny : v; };
  double c = 1;
  double d = 1 / away_from_zero(1 - (a + b) * x / (a + 1));
  double value = d;
  for (int m = 1; m <= kMaxTerms; ++m) {
    const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    double factor = 1;
    for (double term : {even, odd}) {
      d = 1 / away_from_zero(1 + term * d);
      c = away_from_zero(1 + term / c);
      factor = c * d;
      value *= factor;
    }
    if (std::abs(factor - 1) < 1e-15) break;
  }
  return value;
}

// P(X <= x) for X ~ Beta(a, b): the regularised incomplete beta function.
double BetaCdf(double a, double b, double x) {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  const double front = std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) +
                                a * std::log(x) + b * std::log1p(-x));
  if (x < (a + 1) / (a + b + 2)) return front * BetaFraction(a, b, x) / a;
  return 1 - front * BetaFraction(b, a, 1 - x) / b;
}

double BetaQuantile(double a, double b, double probability) {
  double low = 0;
  double high = 1;
  for (int halving = 0; halving < 60; ++halving) {
    const double middle = (low + high) / 2;
    (BetaCdf(a, b, middle) < probability ? low : high) = middle;
  }
  return (low + high) / 2;
}

// Linear interpolation between the order statistics of sorted values, as NumPy's default.
double Quantile(const std::vector<double>& sorted, double probability) {
  const double position = probability * (sorted.size() - 1);
  const size_t below = static_cast<size_t>(position);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (position - below) * (sorted[above] - sorted[below]);
}

}  // namespace

void Resample(uint64_t seed, uint64_t stream, int64_t replicate, std::vector<int32_t>& counts) {
  std::fill(counts.begin(), counts.end(), 0);
  uint64_t state =
      Mix(Mix(Mix(seed + kWeyl) ^ (stream + kWeyl)) ^ static_cast<uint64_t>(replicate));
  for (size_t draw = 0; draw < counts.size(); ++draw) {
    state += kWeyl;
    ++counts[Below(Mix(state), counts.size())];
  }
}

void ForReplicates(const BootstrapOptions& options,
                   const std::function<void(int64_t begin, int64_t end)>& work) {
  const int64_t wanted =
      options.threads > 0 ? options.threads : std::max(1u, std::thread::hardware_concurrency());
  const int64_t threads = std::min(wanted, options.replicates);
  const auto bound = [&](int64_t thread) { return options.replicates * thread / threads; };
  std::vector<std::thread> others;
  for (int64_t thread = 1; thread < threads; ++thread) {
    others.emplace_back(work, bound(thread), bound(thread + 1));
  }
  if (threads > 0) work(0, bound(1));
  for (std::thread& other : others) other.join();
}

Interval PercentileInterval(std::vector<double> replicates, double confidence) {
  const bool unknown = std::any_of(replicates.begin(), replicates.end(),
                                   [](double value) { return std::isnan(value); });
  if (replicates.empty() || unknown) return {kNan, kNan};
  std::sort(replicates.begin(), replicates.end());
  return {Quantile(replicates, (1 - confidence) / 2), Quantile(replicates, (1 + confidence) / 2)};
}

Interval BinomialInterval(int64_t hits, int64_t n, double confidence) {
  if (n == 0) return {kNan, kNan};
  const double tail = (1 - confidence) / 2;
  const double misses = static_cast<double>(n - hits);
  const double seen = static_cast<double>(hits);
  return {hits == 0 ? 0 : BetaQuantile(seen, misses + 1, tail),
          hits == n ? 1 : BetaQuantile(seen + 1, misses, 1 - tail)};
}

}  // namespace laplace::cli
