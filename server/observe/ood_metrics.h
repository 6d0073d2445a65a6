// How out-of-distribution the examples are that a server sees, beside what calibration promised,
// and how uncertain its answers.
//
// Every series carries the labels model, version, posterior and score:
//   laplace_ood_scored_total           examples with a verdict
//   laplace_ood_flagged_total          those flagged as out-of-distribution
//   laplace_ood_score                  histogram of their scores; the bounds are quantiles of the
//                                      calibration scores, so an even spread over the buckets means
//                                      no drift. Only if the calibration kept quantiles
//   laplace_ood_rate                   share flagged of the last kWindow examples
//   laplace_ood_window_examples        how many examples that share is of
//   laplace_ood_calibrated_rate        share of in-distribution data that calibration aimed to flag
//   laplace_ood_calibrated_rate_upper  upper end of the 95 % interval for it
// And with the labels model, version and posterior:
//   laplace_epistemic                  histogram of the epistemic part of predictions, one value
//   per
//                                      example; bounds are half decades
// A threshold and its buckets belong to one posterior, so another posterior of the same model gets
// series of its own; those of the old one go once it has not answered for kStaleAfter while the new
// one has. Beyond kMaxSources, the one that has not answered for longest goes. Scores without a
// threshold leave no trace: without a verdict there is no rate. Thread-safe; one lock and a few
// additions per call.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/observe/metrics.h"

namespace laplaced {

// Who gave an answer.
struct OodSource {
  std::string model;
  int64_t version = 0;
  std::string posterior_id;
};

// One calibrated score for the examples of an answer.
struct OodSample {
  std::string score;
  const std::vector<double>& values;
  std::vector<bool> flagged;  // one per value
  double target_id_rate = 0;
  double rate_upper = 0;
  const std::vector<double>& id_quantiles;  // in any order, may repeat, may be empty
};

class OodMetrics {
 public:
  static constexpr size_t kWindow = 1000;
  static constexpr size_t kMaxSources = 64;
  static constexpr std::chrono::minutes kStaleAfter{10};

  using Now = std::function<std::chrono::steady_clock::time_point()>;

  // `metrics` must outlive this.
  explicit OodMetrics(Metrics& metrics, Now now = std::chrono::steady_clock::now);
  ~OodMetrics();

  void Observe(const OodSource& source, const OodSample& sample);
  // `values`: one per example.
  void ObserveEpistemic(const OodSource& source, const std::vector<double>& values);

 private:
  class Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace laplaced
