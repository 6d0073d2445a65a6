#include "server/curvature/running_moments.h"

#include <limits>

namespace laplaced {

void RunningMoments::Add(const at::Tensor& values, int64_t weight) {
  RunningMoments batch;
  batch.samples = values.size(0);
  if (batch.samples == 0) return;
  batch.count = batch.samples * weight;
  batch.mean = values.mean(0);
  batch.m2 = (values - batch.mean).square().sum(0) * static_cast<double>(weight);
  Merge(batch);
}

void RunningMoments::Merge(const RunningMoments& other) {
  if (other.count == 0) return;
  if (count == 0) {
    *this = other;
    return;
  }
  const at::Tensor delta = other.mean - mean;
  const double a = static_cast<double>(count), b = static_cast<double>(other.count);
  mean = mean + delta * (b / (a + b));
  m2 = m2 + other.m2 + delta.square() * (a * b / (a + b));
  count += other.count;
  samples += other.samples;
}

at::Tensor RunningMoments::StandardError() const {
  if (samples < 2) return at::full_like(mean, std::numeric_limits<double>::infinity());
  return (m2 / (static_cast<double>(samples - 1) * static_cast<double>(count))).sqrt();
}

}  // namespace laplaced
