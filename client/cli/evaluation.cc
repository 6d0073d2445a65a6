#include "client/cli/evaluation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace laplace::cli {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// ID examples are stream 0, those of OOD set t are stream 1 + t.
constexpr uint64_t kIdStream = 0;

Estimate WithInterval(double value, std::vector<double> replicates, double confidence) {
  Estimate estimate;
  estimate.value = value;
  const Interval interval = PercentileInterval(std::move(replicates), confidence);
  if (!std::isnan(value) && !std::isnan(interval.lower)) estimate.interval = interval;
  return estimate;
}

Estimate FlaggedShare(const client::OodScore& score, double confidence) {
  const int64_t rows = score.is_ood.size();
  const int64_t flagged = std::count(score.is_ood.begin(), score.is_ood.end(), true);
  Estimate estimate;
  estimate.value = rows > 0 ? static_cast<double>(flagged) / rows : kNan;
  if (rows > 0) estimate.interval = BinomialInterval(flagged, rows, confidence);
  return estimate;
}

// Every score's examples ranked against every set, and the metrics of all replicates.
class DetectionBootstrap {
 public:
  DetectionBootstrap(const ScoredSet& id, const std::vector<ScoredSet>& ood,
                     const BootstrapOptions& options)
      : id_rows_(id.rows), options_(options) {
    for (const ScoredSet& set : ood) set_rows_.push_back(set.rows);
    for (size_t s = 0; s < id.scores.size(); ++s) {
      for (const ScoredSet& set : ood) {
        ranked_.push_back(RankScores(id.scores[s].values, set.scores[s].values));
      }
    }
    values_.resize(ranked_.size() * options.replicates);
  }

  void Run(const FractionProgress& progress) {
    ForReplicates(options_, [&](int64_t begin, int64_t end) {
      std::vector<int32_t> id_weights(id_rows_);
      std::vector<std::vector<int32_t>> weights;
      for (int64_t rows : set_rows_) weights.emplace_back(rows);
      std::vector<int32_t> id_counts;
      std::vector<int32_t> ood_counts;
      for (int64_t r = begin; r < end; ++r) {
        Resample(options_.seed, kIdStream, r, id_weights);
        for (size_t t = 0; t < weights.size(); ++t) {
          Resample(options_.seed, kIdStream + 1 + t, r, weights[t]);
        }
        for (size_t pair = 0; pair < ranked_.size(); ++pair) {
          const RankedScores& ranked = ranked_[pair];
          Count(ranked.in, id_weights, ranked.n_ranks, id_counts);
          Count(ranked.out, weights[pair % weights.size()], ranked.n_ranks, ood_counts);
          values_[r * ranked_.size() + pair] = DetectionMetricsOfCounts(id_counts, ood_counts);
        }
        if (begin == 0 && progress) progress(static_cast<double>(r + 1) / end);
      }
    });
  }

  std::vector<double> Replicates(size_t score, size_t set, int metric) const {
    std::vector<double> replicates;
    for (int64_t r = 0; r < options_.replicates; ++r) {
      replicates.push_back(values_[r * ranked_.size() + score * set_rows_.size() + set][metric]);
    }
    return replicates;
  }

  std::vector<double> MeanAurocs(size_t score) const {
    std::vector<double> means(options_.replicates, 0);
    for (size_t set = 0; set < set_rows_.size(); ++set) {
      const std::vector<double> aurocs = Replicates(score, set, kAuroc);
      for (size_t r = 0; r < means.size(); ++r) means[r] += aurocs[r] / set_rows_.size();
    }
    return means;
  }

 private:
  // Examples at every rank, given how often each example was drawn.
  static void Count(const std::vector<int32_t>& ranks, const std::vector<int32_t>& weights,
                    int32_t n_ranks, std::vector<int32_t>& counts) {
    counts.assign(n_ranks, 0);
    for (size_t i = 0; i < ranks.size(); ++i) counts[ranks[i]] += weights[i];
  }

  const int64_t id_rows_;
  const BootstrapOptions options_;
  std::vector<int64_t> set_rows_;
  std::vector<RankedScores> ranked_;     // [scores, sets]
  std::vector<DetectionValues> values_;  // [replicates, scores, sets]
};

absl::optional<client::OodThreshold> CalibrationOf(const client::Posterior& posterior,
                                                   const std::string& score) {
  for (const client::OodThreshold& threshold : posterior.ood_thresholds) {
    if (threshold.score == score) return threshold;
  }
  return absl::nullopt;
}

}  // namespace

Estimate Undefined() { return {kNan, absl::nullopt}; }

std::vector<Estimate> EstimateMetrics(const std::vector<ExampleMetric>& metrics,
                                      const BootstrapOptions& options) {
  std::vector<std::vector<double>> replicates(metrics.size(),
                                              std::vector<double>(options.replicates));
  ForReplicates(options, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> counts(metrics.empty() ? 0 : metrics[0].n_examples);
    for (int64_t r = begin; r < end; ++r) {
      Resample(options.seed, kIdStream, r, counts);
      for (size_t m = 0; m < metrics.size(); ++m) replicates[m][r] = Value(metrics[m], counts);
    }
  });
  std::vector<Estimate> estimates;
  for (size_t m = 0; m < metrics.size(); ++m) {
    estimates.push_back(
        WithInterval(Value(metrics[m]), std::move(replicates[m]), options.confidence));
  }
  return estimates;
}

std::vector<ScoreEvaluation> EvaluateScores(const ScoredSet& id, const std::vector<ScoredSet>& ood,
                                            const client::Posterior& posterior,
                                            const BootstrapOptions& options,
                                            const FractionProgress& progress) {
  DetectionBootstrap bootstrap(id, ood, options);
  if (!ood.empty()) bootstrap.Run(progress);
  std::vector<ScoreEvaluation> evaluations;
  for (size_t s = 0; s < id.scores.size(); ++s) {
    const client::OodScore& score = id.scores[s];
    ScoreEvaluation evaluation;
    evaluation.name = score.name;
    evaluation.is_default = score.name == posterior.default_ood_score;
    evaluation.threshold = score.threshold;
    evaluation.calibration = CalibrationOf(posterior, score.name);
    if (score.threshold) {
      evaluation.target_id_rate = score.target_id_rate;
      evaluation.id_flagged = FlaggedShare(score, options.confidence);
    }
    double sum = 0;
    for (size_t t = 0; t < ood.size(); ++t) {
      const client::OodScore& outside = ood[t].scores[s];
      const DetectionValues values = DetectionMetrics(score.values, outside.values);
      SetEvaluation set;
      for (int metric = 0; metric < kDetectionMetrics; ++metric) {
        set.metrics[metric] =
            WithInterval(values[metric], bootstrap.Replicates(s, t, metric), options.confidence);
      }
      if (outside.threshold) set.flagged = FlaggedShare(outside, options.confidence);
      sum += values[kAuroc];
      evaluation.sets.push_back(set);
    }
    evaluation.mean_auroc =
        ood.empty() ? Undefined()
                    : WithInterval(sum / ood.size(), bootstrap.MeanAurocs(s), options.confidence);
    evaluations.push_back(std::move(evaluation));
  }
  const auto rank = [](const ScoreEvaluation& e) {
    return std::isnan(e.mean_auroc.value) ? -1 : e.mean_auroc.value;
  };
  std::stable_sort(evaluations.begin(), evaluations.end(),
                   [&](const auto& a, const auto& b) { return rank(a) > rank(b); });
  return evaluations;
}

}  // namespace laplace::cli
