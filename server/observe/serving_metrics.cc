#include "server/observe/serving_metrics.h"

namespace laplaced {

ServingMetrics::ServingMetrics(Metrics&) {}

void ServingMetrics::ObserveBatch(const std::string&, int64_t, int64_t, int64_t, double) {}

void ServingMetrics::ObserveQueued(const std::string&, const char*, double) {}

void ServingMetrics::CountDropped(const char*) {}

void ServingMetrics::SetWaiting(int64_t) {}

}  // namespace laplaced
