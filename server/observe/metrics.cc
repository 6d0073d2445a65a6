#include "server/observe/metrics.h"

#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

namespace laplaced {

Metrics::Metrics() : registry_(std::make_unique<prometheus::Registry>()) {}

Metrics::~Metrics() = default;

std::string Metrics::Text() const {
  return prometheus::TextSerializer().Serialize(registry_->Collect());
}

}  // namespace laplaced
