#include "server/app/server_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/metric_family.h>
#include <prometheus/registry.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/observe/register.h"

namespace laplaced {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;

constexpr const char* kKindNames[] = {"fit", "update", "calibrate", "other"};
constexpr const char* kEndNames[] = {"succeeded", "failed", "cancelled"};

// Descriptions begin with what is done: "fit net/1".
size_t KindOf(const std::string& description) {
  const absl::string_view text = description;
  const absl::string_view verb = text.substr(0, text.find(' '));
  size_t kind = 0;
  while (kind + 1 < std::size(kKindNames) && verb != kKindNames[kind]) ++kind;
  return kind;
}

size_t EndOf(OperationState state) {
  if (state == OperationState::kSucceeded) return 0;
  return state == OperationState::kCancelled ? 2 : 1;
}

// A tenth of a second to a day.
prometheus::Histogram::BucketBoundaries FitSecondsBuckets() {
  return {0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600, 10800, 36000, 86400};
}

ClientMetric GaugeOf(std::vector<ClientMetric::Label> labels, double value) {
  ClientMetric metric;
  metric.label = std::move(labels);
  metric.gauge.value = value;
  return metric;
}

void CollectOperations(const Operations& operations, std::vector<MetricFamily>& families) {
  const std::vector<OperationSnapshot> running = operations.Running();
  families.push_back({"laplaced_operations_running",
                      "Operations that run now",
                      prometheus::MetricType::Gauge,
                      {GaugeOf({}, static_cast<double>(running.size()))}});
  if (running.empty()) return;
  MetricFamily progress{"laplaced_fit_progress_ratio",
                        "Done of a running operation, 0 to 1",
                        prometheus::MetricType::Gauge,
                        {}};
  for (const OperationSnapshot& operation : running) {
    progress.metric.push_back(GaugeOf({{"kind", kKindNames[KindOf(operation.record.description)]},
                                       {"operation", operation.record.id}},
                                      operation.fraction));
  }
  families.push_back(std::move(progress));
}

void CollectModels(const ModelHost& models, std::vector<MetricFamily>& families) {
  MetricFamily ready{"laplaced_model_ready",
                     "1 if the model is served, 0 if it or its active posterior failed to load",
                     prometheus::MetricType::Gauge,
                     {}};
  for (const ModelInfo& model : models.Tried()) {
    ready.metric.push_back(GaugeOf({{"model", absl::StrCat(model.name, "/", model.version)}},
                                   model.state == ModelState::kReady && !model.lacks_posterior));
  }
  if (!ready.metric.empty()) families.push_back(std::move(ready));
}

}  // namespace

OperationMetrics::OperationMetrics(Metrics& metrics) {
  prometheus::Registry& to = metrics.registry();
  auto& ended = Register(prometheus::BuildCounter(), to, "laplaced_operations_total",
                         "Operations that ended, by how");
  auto& seconds = Register(prometheus::BuildHistogram(), to, "laplaced_fit_seconds",
                           "Time of operations that succeeded");
  for (size_t kind = 0; kind < kKinds; ++kind) {
    const std::string name = kKindNames[kind];
    for (size_t end = 0; end < kEnds; ++end) {
      ended_[kind][end] = &ended.Add({{"kind", name}, {"state", kEndNames[end]}});
    }
    seconds_[kind] = &seconds.Add({{"kind", name}}, FitSecondsBuckets());
  }
}

void OperationMetrics::Ended(const OperationRecord& record, double seconds) {
  const size_t kind = KindOf(record.description);
  ended_[kind][EndOf(record.state)]->Increment();
  if (record.state == OperationState::kSucceeded) seconds_[kind]->Observe(seconds);
}

void AddServerMetrics(const Operations& operations, const ModelHost& models,
                      const std::string& version, Metrics& metrics) {
  Register(prometheus::BuildGauge(), metrics.registry(), "laplaced_build_info",
           "1, with the version of the program as a label")
      .Add({{"version", version}})
      .Set(1);
  metrics.AddCollector([&operations, &models](std::vector<MetricFamily>& families) {
    CollectOperations(operations, families);
    CollectModels(models, families);
  });
}

}  // namespace laplaced
