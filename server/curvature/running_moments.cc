#include "server/curvature/running_moments.h"

#include <limits>

#include "server/model/torch_status.h"

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

absl::StatusOr<RunningMoments> RunningMoments::OverRanks(const Ranks& ranks, int64_t width) const {
  if (ranks.size() == 1) return *this;
  at::Tensor mine = at::zeros({1, 2 + 2 * width}, at::kDouble);
  mine[0][0] = static_cast<double>(count);
  mine[0][1] = static_cast<double>(samples);
  if (count > 0) {
    mine[0].narrow(0, 2, width).copy_(mean);
    mine[0].narrow(0, 2 + width, width).copy_(m2);
  }
  LAPLACED_ASSIGN_OR_RETURN(const at::Tensor all, ranks.Gather(mine));
  RunningMoments merged;
  for (int64_t r = 0; r < ranks.size(); ++r) {
    const at::Tensor of_rank = all[r];
    merged.Merge({static_cast<int64_t>(of_rank[0].item<double>()),
                  static_cast<int64_t>(of_rank[1].item<double>()),
                  of_rank.narrow(0, 2, width).clone(),
                  of_rank.narrow(0, 2 + width, width).clone()});
  }
  return merged;
}

at::Tensor RunningMoments::StandardError() const {
  if (samples < 2) return at::full_like(mean, std::numeric_limits<double>::infinity());
  return (m2 / (static_cast<double>(samples - 1) * static_cast<double>(count))).sqrt();
}

}  // namespace laplaced
