// The metrics of what lives longer than a call: operations, models, the program itself.
//
//   laplaced_operations_total     operations ended, by kind ("fit", "update", "calibrate", "other")
//                                 and state ("succeeded", "failed", "cancelled")
//   laplaced_fit_seconds          histogram of those that succeeded, by kind
//   laplaced_operations_running   operations that run now
//   laplaced_fit_progress_ratio   of each of these, by operation and kind: what is done, 0 to 1
//   laplaced_model_ready          by model ("net/1"): 1 if it is served, 0 if it failed to load
//   laplaced_build_info           1, with the version as a label
//
// Series of an operation are there while it runs, so their number is bounded by how many may run.
// Thread-safe.
#pragma once

#include <array>
#include <string>

#include "server/observe/metrics.h"
#include "server/serving/model_host.h"
#include "server/serving/operations.h"

namespace prometheus {
class Counter;
class Histogram;
}  // namespace prometheus

namespace laplaced {

// Counts ends of operations.
class OperationMetrics {
 public:
  // `metrics` must outlive this.
  explicit OperationMetrics(Metrics& metrics);

  void Ended(const OperationRecord& record, double seconds);

 private:
  static constexpr size_t kKinds = 4, kEnds = 3;
  std::array<std::array<prometheus::Counter*, kEnds>, kKinds> ended_;
  std::array<prometheus::Histogram*, kKinds> seconds_;
};

// Looked up whenever somebody asks `metrics`: both must live as long as somebody may.
void AddServerMetrics(const Operations& operations, const ModelHost& models,
                      const std::string& version, Metrics& metrics);

}  // namespace laplaced
