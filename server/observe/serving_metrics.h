// What the batcher does, in numbers: waiting, batches, refusals.
//
// Thread-safe. Families are in the README ("Watching").
#pragma once

#include <cstdint>
#include <string>

#include "server/observe/metrics.h"

namespace laplaced {

class ServingMetrics {
 public:
  explicit ServingMetrics(Metrics& metrics);

  // Rows that one computation took for `requests` requests, padded to `bucket`, of model "name/3".
  void ObserveBatch(const std::string& model, int64_t requests, int64_t rows, int64_t bucket,
                    double compute_seconds);
  // A request has its answer; `priority` is "interactive" or "bulk".
  void ObserveQueued(const std::string& model, const char* priority, double queue_seconds);
  // A request was not computed: "queue_full", "queue_delay", "deadline", "cancelled", "shutdown".
  void CountDropped(const char* reason);
  void SetWaiting(int64_t requests);
};

}  // namespace laplaced
