// What the batcher does, in numbers. Series have the label model ("name/3"), unless said otherwise:
//
//   laplaced_batch_rows              histogram: rows of a computation
//   laplaced_batch_padding_rows_total  rows added to reach a power of two
//   laplaced_batch_requests_total    requests, or parts of them, that computations took
//   laplaced_compute_seconds         histogram: one computation
//   laplaced_queue_seconds           histogram, also by priority: what a request waited
//   laplaced_requests_dropped_total  by reason only: requests that were not computed
//   laplaced_queue_requests          gauge without labels: requests that wait
//
// At most kMostModels models have series of their own; what comes then is counted as "other".
// Thread-safe; one lock and a few additions per call.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "server/observe/metrics.h"

namespace laplaced {

class ServingMetrics {
 public:
  static constexpr size_t kMostModels = 64;

  // `metrics` must outlive this.
  explicit ServingMetrics(Metrics& metrics);
  ~ServingMetrics();

  // A computation of `rows` rows, padded to `bucket`, for `requests` requests.
  void ObserveBatch(const std::string& model, int64_t requests, int64_t rows, int64_t bucket,
                    double compute_seconds);
  // A request has its answer; `priority` is "interactive" or "bulk".
  void ObserveQueued(const std::string& model, const char* priority, double queue_seconds);
  // `reason` is "queue_full", "queue_delay", "deadline", "cancelled" or "shutdown".
  void CountDropped(const char* reason);
  void SetWaiting(int64_t requests);

 private:
  struct State;
  const std::unique_ptr<State> state_;
};

}  // namespace laplaced
