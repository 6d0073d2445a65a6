#include "server/observe/serving_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <map>
#include <mutex>
#include <unordered_map>

#include "server/observe/register.h"

namespace laplaced {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;

// The series of one model; they stay.
struct Series {
  Histogram* rows;
  Counter* padding;
  Counter* requests;
  Histogram* compute;
  std::map<std::string, Histogram*> queue;  // by priority
};

}  // namespace

struct ServingMetrics::State {
  explicit State(prometheus::Registry& to)
      : rows(Register(prometheus::BuildHistogram(), to, "laplaced_batch_rows",
                      "Rows that one computation took together")),
        padding(Register(prometheus::BuildCounter(), to, "laplaced_batch_padding_rows_total",
                         "Rows added to computations to reach a power of two")),
        requests(Register(prometheus::BuildCounter(), to, "laplaced_batch_requests_total",
                          "Requests, or parts of them, that computations took")),
        compute(Register(prometheus::BuildHistogram(), to, "laplaced_compute_seconds",
                         "Time of one computation")),
        queue(Register(prometheus::BuildHistogram(), to, "laplaced_queue_seconds",
                       "Time that answered requests waited for compute")),
        dropped(Register(prometheus::BuildCounter(), to, "laplaced_requests_dropped_total",
                         "Requests that were not computed")),
        waiting(Register(prometheus::BuildGauge(), to, "laplaced_queue_requests",
                         "Requests of which nothing is computed yet")
                    .Add({})) {
    for (const char* reason : {"queue_full", "queue_delay", "deadline", "cancelled", "shutdown"}) {
      dropped_by[reason] = &dropped.Add({{"reason", reason}});
    }
  }

  // REQUIRES: mutex held.
  Series& SeriesOf(const std::string& model) {
    const auto found = series.find(model);
    if (found != series.end()) return found->second;
    const std::string label = series.size() < kMostModels ? model : "other";
    if (const auto other = series.find(label); other != series.end()) return other->second;
    const Histogram::BucketBoundaries sizes = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};
    const prometheus::Labels labels = {{"model", label}};
    Series made{&rows.Add(labels, sizes),
                &padding.Add(labels),
                &requests.Add(labels),
                &compute.Add(labels, SecondsBuckets()),
                {}};
    for (const char* priority : {"interactive", "bulk"}) {
      made.queue[priority] =
          &queue.Add({{"model", label}, {"priority", priority}}, SecondsBuckets());
    }
    return series.emplace(label, std::move(made)).first->second;
  }

  Family<Histogram>& rows;
  Family<Counter>& padding;
  Family<Counter>& requests;
  Family<Histogram>& compute;
  Family<Histogram>& queue;
  Family<Counter>& dropped;
  Gauge& waiting;

  std::mutex mutex;
  std::unordered_map<std::string, Series> series;
  std::map<std::string, Counter*> dropped_by;  // fixed
};

ServingMetrics::ServingMetrics(Metrics& metrics)
    : state_(std::make_unique<State>(metrics.registry())) {}

ServingMetrics::~ServingMetrics() = default;

void ServingMetrics::ObserveBatch(const std::string& model, int64_t requests, int64_t rows,
                                  int64_t bucket, double compute_seconds) {
  std::lock_guard<std::mutex> lock(state_->mutex);
  const Series& series = state_->SeriesOf(model);
  series.rows->Observe(static_cast<double>(rows));
  series.padding->Increment(static_cast<double>(bucket - rows));
  series.requests->Increment(static_cast<double>(requests));
  series.compute->Observe(compute_seconds);
}

void ServingMetrics::ObserveQueued(const std::string& model, const char* priority,
                                   double queue_seconds) {
  std::lock_guard<std::mutex> lock(state_->mutex);
  state_->SeriesOf(model).queue.at(priority)->Observe(queue_seconds);
}

void ServingMetrics::CountDropped(const char* reason) {
  state_->dropped_by.at(reason)->Increment();
}

void ServingMetrics::SetWaiting(int64_t requests) {
  state_->waiting.Set(static_cast<double>(requests));
}

}  // namespace laplaced
