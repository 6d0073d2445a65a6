#include "server/serving/compute_profile.h"

#include <cmath>

namespace laplaced {
namespace {

constexpr double kNewestWeight = 0.2;
constexpr double kForgetting = 0.999;
constexpr double kGrowth = 1.25;

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
  const int64_t size = PowerOfTwoFrom(rows);
  size_t i = kSizes - 1;
  if (size > kMost) {
    seconds *= static_cast<double>(kMost) / static_cast<double>(rows);
  } else {
    i = 0;
    while ((int64_t{1} << i) < size) ++i;
  }
  // A size that is avoided because it once took long is thought of less and less badly.
  for (double& other : seconds_) other *= kForgetting;
  double& mean = seconds_[i];
  mean = mean == 0 ? seconds : (1 - kNewestWeight) * mean / kForgetting + kNewestWeight * seconds;
}

double ComputeProfile::Seconds(int64_t rows) const {
  if (rows > kMost) {
    return Seconds(kMost) * static_cast<double>(rows) / static_cast<double>(kMost);
  }
  int wanted = 0;
  while ((int64_t{1} << wanted) < rows) ++wanted;
  for (int i = wanted; i >= 0; --i) {
    const double seconds = seconds_[static_cast<size_t>(i)];
    if (seconds > 0) return seconds * std::pow(kGrowth, wanted - i);
  }
  for (int i = wanted + 1; i < kSizes; ++i) {
    const double seconds = seconds_[static_cast<size_t>(i)];
    if (seconds > 0) return seconds * std::exp2(wanted - i);
  }
  return 0;
}

int64_t ComputeProfile::RowsWithin(double seconds, int64_t most) const {
  int64_t rows = PowerOfTwoUpTo(most);
  while (rows > 1 && Seconds(rows) > seconds) rows /= 2;
  return rows;
}

}  // namespace laplaced
