#include "server/serving/compute_profile.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace laplaced {
namespace {

constexpr double kNewestWeight = 0.2;

}  // namespace

int64_t PowerOfTwoFrom(int64_t n) {
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}

int64_t PowerOfTwoUpTo(int64_t n) {
  const int64_t power = PowerOfTwoFrom(n);
  return power > n ? power / 2 : power;
}

void ComputeProfile::Add(int64_t rows, double seconds) {
  constexpr int64_t kMost = int64_t{1} << (kSizes - 1);
  const int64_t size = PowerOfTwoFrom(rows);
  int i = kSizes - 1;
  if (size > kMost) {
    // Larger computations go in blocks of the largest size.
    seconds *= static_cast<double>(kMost) / static_cast<double>(rows);
  } else {
    i = 0;
    while ((int64_t{1} << i) < size) ++i;
  }
  double& mean = seconds_[static_cast<size_t>(i)];
  mean = mean == 0 ? seconds : (1 - kNewestWeight) * mean + kNewestWeight * seconds;
}

double ComputeProfile::Seconds(int64_t rows) const {
  const double wanted = std::log2(static_cast<double>(PowerOfTwoFrom(rows)));
  double best = 0, distance = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kSizes; ++i) {
    const double seconds = seconds_[static_cast<size_t>(i)];
    if (seconds == 0 || std::abs(i - wanted) > distance) continue;
    distance = std::abs(i - wanted);
    best = seconds * std::exp2(wanted - i);
  }
  return best;
}

double ComputeProfile::SecondsPerRow() const {
  double best = 0;
  for (int i = 0; i < kSizes; ++i) {
    const double seconds = seconds_[static_cast<size_t>(i)] / std::exp2(i);
    if (seconds > 0 && (best == 0 || seconds < best)) best = seconds;
  }
  return best;
}

int64_t ComputeProfile::RowsWithin(double seconds, int64_t most) const {
  int64_t rows = PowerOfTwoUpTo(most);
  while (rows > 1 && Seconds(rows) > seconds) rows /= 2;
  return rows;
}

}  // namespace laplaced
