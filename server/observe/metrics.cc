#include "server/observe/metrics.h"

#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <utility>

namespace laplaced {

Metrics::Metrics() : registry_(std::make_unique<prometheus::Registry>()) {}

Metrics::~Metrics() = default;

void Metrics::AddCollector(Collect collect) {
  std::lock_guard<std::mutex> lock(mutex_);
  collectors_.push_back(std::move(collect));
}

std::string Metrics::Text() const {
  std::vector<prometheus::MetricFamily> families = registry_->Collect();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const Collect& collect : collectors_) collect(families);
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace laplaced
