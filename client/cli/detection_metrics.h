// How well a score tells out-of-distribution (OOD) from in-distribution (ID) examples: AUROC, AUPR
// and FPR@95, each in both conventions where there are two.
//
// A higher score means more OOD. All metrics depend on the order of the scores alone; scores that
// tie are one threshold. Each is NaN without ID or without OOD examples, or if a score is NaN. Pure
// functions, thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace laplace::cli {

enum DetectionMetric {
  // Probability that a random OOD example scores above a random ID one, ties counting one half (the
  // Mann-Whitney statistic over its maximum). 1 separates perfectly, 0.5 is chance.
  kAuroc,
  // Average precision, sum over thresholds of (R_k - R_{k-1}) P_k with recall R and precision P
  // (scikit-learn's average_precision_score; no interpolation): ID as positive, on the negated
  // score. Chance gives the share of ID among all examples.
  kAuprIn,
  // The same with OOD as positive, on the score.
  kAuprOut,
  // FPR@95 with OOD as positive (OpenOOD): share of ID examples that are flagged (score >= t) by
  // the
  // highest threshold t that flags at least 95 % of OOD. Lower is better.
  kFpr95OodPositive,
  // FPR@95 with ID as positive (ODIN, Hendrycks & Gimpel): share of OOD examples that are accepted
  // (score <= t) by the lowest threshold t that accepts at least 95 % of ID. Lower is better.
  kFpr95IdPositive,
};
inline constexpr int kDetectionMetrics = 5;

// "auroc", "aupr_in", "aupr_out", "fpr95_ood_positive", "fpr95_id_positive".
const char* DetectionMetricName(int metric);

// Indexed by DetectionMetric.
using DetectionValues = std::array<double, kDetectionMetrics>;

DetectionValues DetectionMetrics(const std::vector<double>& in, const std::vector<double>& out);

double Auroc(const std::vector<double>& in, const std::vector<double>& out);

// Where every example stands among the distinct values of both sets, lowest first: sorted once, any
// number of resamples only have to be counted.
struct RankedScores {
  std::vector<int32_t> in;   // rank of each ID example
  std::vector<int32_t> out;  // of each OOD example
  int32_t n_ranks = 0;       // 0 if the metrics are NaN
};

RankedScores RankScores(const std::vector<double>& in, const std::vector<double>& out);

// ID and OOD examples at every rank, lowest first; both vectors are of one size.
DetectionValues DetectionMetricsOfCounts(const std::vector<int32_t>& in,
                                         const std::vector<int32_t>& out);

}  // namespace laplace::cli
