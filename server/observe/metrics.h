// The metrics of one server, in Prometheus's text format.
//
// Whoever has something to count registers it here (ood_metrics.h); nothing else in the process
// keeps metrics. What is known anyway is not counted but looked up when somebody asks. Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace prometheus {
class Registry;
struct MetricFamily;
}  // namespace prometheus

namespace laplaced {

class Metrics {
 public:
  Metrics();
  ~Metrics();

  prometheus::Registry& registry() { return *registry_; }

  // Appends families with present values, of names that no other collector and nothing in the
  // registry has. Runs on every call of Text, on its thread, one at a time; what it uses must live
  // as long as Text is called.
  using Collect = std::function<void(std::vector<prometheus::MetricFamily>& families)>;
  void AddCollector(Collect collect);

  // Everything as it is now, in the text exposition format 0.0.4.
  std::string Text() const;
  static constexpr char kContentType[] = "text/plain; version=0.0.4; charset=utf-8";

 private:
  const std::unique_ptr<prometheus::Registry> registry_;
  mutable std::mutex mutex_;
  std::vector<Collect> collectors_;
};

}  // namespace laplaced
