#include "client/cli/detection_metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace laplace::cli {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kRecall = 0.95;

DetectionValues AllNan() {
  DetectionValues values;
  values.fill(kNan);
  return values;
}

bool HasNan(const std::vector<double>& scores) {
  return std::any_of(scores.begin(), scores.end(), [](double s) { return std::isnan(s); });
}

// The fewest of `n` that are a share of at least kRecall.
double Needed(double n) {
  double count = std::floor(kRecall * n);
  while (count / n < kRecall) ++count;
  return count;
}

}  // namespace

const char* DetectionMetricName(int metric) {
  constexpr const char* kNames[kDetectionMetrics] = {"auroc", "aupr_in", "aupr_out",
                                                     "fpr95_ood_positive", "fpr95_id_positive"};
  return kNames[metric];
}

RankedScores RankScores(const std::vector<double>& in, const std::vector<double>& out) {
  RankedScores ranked;
  if (in.empty() || out.empty() || HasNan(in) || HasNan(out)) return ranked;
  std::vector<double> values(in);
  values.insert(values.end(), out.begin(), out.end());
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  const auto ranks = [&values](const std::vector<double>& scores) {
    std::vector<int32_t> of_scores;
    of_scores.reserve(scores.size());
    for (double score : scores) {
      const auto found = std::lower_bound(values.begin(), values.end(), score);
      of_scores.push_back(static_cast<int32_t>(found - values.begin()));
    }
    return of_scores;
  };
  ranked.in = ranks(in);
  ranked.out = ranks(out);
  ranked.n_ranks = static_cast<int32_t>(values.size());
  return ranked;
}

DetectionValues DetectionMetricsOfCounts(const std::vector<int32_t>& in,
                                         const std::vector<int32_t>& out) {
  const int64_t n_in = std::accumulate(in.begin(), in.end(), int64_t{0});
  const int64_t n_out = std::accumulate(out.begin(), out.end(), int64_t{0});
  if (n_in == 0 || n_out == 0) return AllNan();
  const auto all_in = static_cast<double>(n_in);
  const auto all_out = static_cast<double>(n_out);
  const double needed_in = Needed(all_in);
  const double needed_out = Needed(all_out);
  double wins = 0;  // pairs in which the OOD example scores higher; a tie is half of one
  double precision_in = 0;
  double precision_out = 0;
  double in_flagged = all_in;  // where enough of OOD are
  double out_accepted = 0;     // where enough of ID are
  double in_below = 0;         // examples of lower ranks
  double out_below = 0;
  // Both sweeps of the threshold in one, without branches that depend on the order of the examples.
  for (size_t rank = 0; rank < in.size(); ++rank) {
    const double in_here = in[rank];
    const double out_here = out[rank];
    const double in_from_here = all_in - in_below;
    const double out_from_here = all_out - out_below;
    // Ranks that a resample left empty may leave nothing to divide by.
    precision_out += out_here * (out_from_here / std::max(1.0, in_from_here + out_from_here));
    if (out_from_here >= needed_out) in_flagged = in_from_here;
    wins += out_here * (in_below + 0.5 * in_here);
    const bool enough_before = in_below >= needed_in;
    in_below += in_here;
    out_below += out_here;
    precision_in += in_here * (in_below / std::max(1.0, in_below + out_below));
    if (!enough_before) out_accepted = out_below;
  }
  DetectionValues values;
  values[kAuroc] = wins / (all_in * all_out);
  values[kAuprIn] = precision_in / all_in;
  values[kAuprOut] = precision_out / all_out;
  values[kFpr95OodPositive] = in_flagged / all_in;
  values[kFpr95IdPositive] = out_accepted / all_out;
  return values;
}

DetectionValues DetectionMetrics(const std::vector<double>& in, const std::vector<double>& out) {
  const RankedScores ranked = RankScores(in, out);
  if (ranked.n_ranks == 0) return AllNan();
  std::vector<int32_t> in_counts(ranked.n_ranks, 0);
  std::vector<int32_t> out_counts(ranked.n_ranks, 0);
  for (int32_t rank : ranked.in) ++in_counts[rank];
  for (int32_t rank : ranked.out) ++out_counts[rank];
  return DetectionMetricsOfCounts(in_counts, out_counts);
}

double Auroc(const std::vector<double>& in, const std::vector<double>& out) {
  return DetectionMetrics(in, out)[kAuroc];
}

}  // namespace laplace::cli
