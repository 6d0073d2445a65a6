// What OOD scores learn from data: features of the training examples, templates and thresholds of
// held-out ones.
//
// Objects gather batch by batch and are not synchronised. What they reference must outlive them.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "server/laplace/fit.h"
#include "server/model/feature_layer.h"
#include "server/ood/scores.h"
#include "server/registry/posterior_record.h"
#include "server/serving/loaded_model.h"

namespace laplaced {

// Sees the training data as FitWatchers::on_training.
class TrainingFeatures {
 public:
  // `start`: what an earlier pass gathered with the same seed. `first`: as FeatureGatherer.
  TrainingFeatures(const LoadedModel& model, FeatureLayer layer, uint64_t seed,
                   absl::optional<FeatureStatistics> start, int64_t first);

  // Gathers the features of network inputs x on their way to the outputs, which it returns.
  absl::StatusOr<at::Tensor> Forward(const at::Tensor& x, const at::Tensor& targets);

  absl::StatusOr<FeatureStatistics> Finish(const Ranks& ranks) {
    return gatherer_.Finish().OverRanks(ranks);
  }
  const FeatureLayer& layer() const { return layer_; }

 private:
  const LoadedModel& model_;
  const FeatureLayer layer_;
  FeatureGatherer gatherer_;
};

// The scales of combined that thresholds hold; none unless all its parts have quantiles, and none
// if no part spreads: combined would be the same number for every input. Thresholds that have
// combined among them keep it: releases before made it of any data.
std::vector<ScoreScale> CombinedScales(const std::vector<OodThresholdRecord>& thresholds);

// Every score of in-distribution data, and the thresholds that follow. Of several ranks, each adds
// its own data, and all call Thresholds.
class OodCalibration {
 public:
  // `knowledge` without templates has them gathered from the data, if the likelihood is
  // categorical.
  OodCalibration(const LoadedModel& model, OodKnowledge knowledge, const Ranks& ranks = OneRank());

  // A batch of network inputs x at the posterior's precision for OOD scores; covariance and, if
  // there are directions, outside are in `batch`.
  absl::Status Add(const Likelihood& likelihood, const at::Tensor& x, const Linearized& batch);

  // One for each score that there is; none without data.
  absl::StatusOr<std::vector<OodThresholdRecord>> Thresholds(double target_id_rate);

  // After Thresholds: with templates, and with what it found out for combined.
  const OodKnowledge& knowledge() const { return knowledge_; }
  // After Thresholds: there is no combined only because all examples have equal scores.
  bool all_equal() const { return equal_; }

 private:
  std::vector<double> ValuesOf(const std::string& score) const;
  absl::Status FinishTemplates();
  const LoadedModel& model_;
  OodKnowledge knowledge_;
  const Ranks& ranks_;
  std::vector<std::string> names_;  // all that can be computed batch by batch
  std::vector<std::vector<double>> values_;
  bool equal_ = false;
  absl::optional<ClassTemplates> gathered_;
  std::vector<at::Tensor> f_;  // fp32, for kl_matching, which needs all of them first
};

}  // namespace laplaced
