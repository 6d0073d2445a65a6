#include "server/ood/threshold.h"

#include <algorithm>
#include <cmath>

namespace laplaced {
namespace {

double BetaQuantile(double probability, double a, double b) {
  double low = 0, high = 1;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (BetaCdf(middle, a, b) < probability ? low : high) = middle;
  }
  return (low + high) / 2;
}

}  // namespace

double BetaCdf(double x, double a, double b) {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  // P(Binomial(a + b - 1, x) >= a), from whichever side has fewer terms.
  const double n = a + b - 1;
  const auto tail = [n](double p, double from) {
    double sum = 0;
    for (double j = from; j <= n; ++j) {
      sum += std::exp(std::lgamma(n + 1) - std::lgamma(j + 1) - std::lgamma(n - j + 1) +
                      j * std::log(p) + (n - j) * std::log1p(-p));
    }
    return std::min(sum, 1.0);
  };
  return n - a < a ? tail(x, a) : 1 - tail(1 - x, b);
}

std::vector<double> IdQuantiles(std::vector<double> scores) {
  std::sort(scores.begin(), scores.end());
  std::vector<double> quantiles;
  for (const double q : kIdQuantiles) {
    const double position = q * static_cast<double>(scores.size() - 1);
    const auto below = static_cast<size_t>(position);
    const double low = scores[below], high = scores[std::min(below + 1, scores.size() - 1)];
    quantiles.push_back(low + (position - static_cast<double>(below)) * (high - low));
  }
  return quantiles;
}

OodThreshold CalibrateThreshold(std::vector<double> scores, double target_id_rate) {
  const auto n = static_cast<double>(scores.size());
  const double k = std::min(n, std::ceil((n + 1) * (1 - target_id_rate)));
  const auto position = scores.begin() + static_cast<std::ptrdiff_t>(k) - 1;
  std::nth_element(scores.begin(), position, scores.end());
  OodThreshold result;
  result.threshold = *position;
  result.rate_lower = BetaQuantile(0.025, n + 1 - k, k);
  result.rate_upper = BetaQuantile(0.975, n + 1 - k, k);
  return result;
}

}  // namespace laplaced
