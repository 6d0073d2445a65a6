// What `laplace evaluate` finds out: how good predictions are on in-distribution (ID) data, and how
// well every score tells out-of-distribution (OOD) data from them, each with an interval.
//
// Intervals of metrics are bootstrap percentile intervals: ID and OOD sets are resampled
// independently, and one resample of the ID examples serves all scores and sets of a replicate.
// The interval of ECE leans upwards, as resamples add noise to every bin. Intervals of rates at a
// fixed threshold are exact binomial ones. Plain values and pure functions; thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/types/optional.h"
#include "client/cli/detection_metrics.h"
#include "client/cli/intervals.h"
#include "client/cli/metrics.h"
#include "client/cpp/client.h"

namespace laplace::cli {

struct Estimate {
  double value = 0;                   // NaN where the metric is not defined
  absl::optional<Interval> interval;  // absent without replicates or a defined value
};

// A metric that does not exist here: NaN.
Estimate Undefined();

// The scores of one file, in one order for all files.
struct ScoredSet {
  std::string name;
  std::string file;
  int64_t rows = 0;
  std::vector<client::OodScore> scores;
};

// One metric of the predictions on ID data.
struct QualityEvaluation {
  std::string metric;
  Estimate plain_network;
  Estimate laplace;
};

// One score on one OOD set.
struct SetEvaluation {
  std::array<Estimate, kDetectionMetrics> metrics;  // indexed by DetectionMetric
  absl::optional<Estimate> flagged;                 // share above the threshold, if there is one
};

struct ScoreEvaluation {
  std::string name;
  bool is_default = false;
  absl::optional<double> threshold;
  double target_id_rate = 0;                         // with a threshold
  absl::optional<Estimate> id_flagged;               // realised ID rate, with a threshold
  absl::optional<client::OodThreshold> calibration;  // what the posterior keeps about it
  Estimate mean_auroc;                               // over the OOD sets
  std::vector<SetEvaluation> sets;                   // in the order of the OOD sets
};

struct Evaluation {
  std::string model;
  int64_t version = 0;
  std::string posterior_id;
  client::Likelihood likelihood = client::Likelihood::kUnspecified;
  client::VarianceMode variance_mode = client::VarianceMode::kDefault;  // the one that ran
  int32_t samples = 0;
  BootstrapOptions bootstrap;
  ScoredSet id;
  std::vector<ScoredSet> ood;
  std::vector<QualityEvaluation> quality;  // empty without labels
  std::vector<ScoreEvaluation> scores;     // best mean AUROC first
};

// Share of the work that is done; called on the caller's thread.
using FractionProgress = std::function<void(double fraction)>;

std::vector<Estimate> EstimateMetrics(const std::vector<ExampleMetric>& metrics,
                                      const BootstrapOptions& options);

// One entry for each score of `id`, best mean AUROC first (in the given order without OOD sets or
// in a tie, NaN last). Every set of `ood` has the same scores as `id`.
std::vector<ScoreEvaluation> EvaluateScores(const ScoredSet& id, const std::vector<ScoredSet>& ood,
                                            const client::Posterior& posterior,
                                            const BootstrapOptions& options,
                                            const FractionProgress& progress = nullptr);

}  // namespace laplace::cli
