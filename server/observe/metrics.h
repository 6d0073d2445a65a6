// The metrics of one server, in Prometheus's text format.
//
// Whoever has something to count registers it here (ood_metrics.h); nothing else in the process
// keeps metrics. Thread-safe.
#pragma once

#include <memory>
#include <string>

namespace prometheus {
class Registry;
}

namespace laplaced {

class Metrics {
 public:
  Metrics();
  ~Metrics();

  prometheus::Registry& registry() { return *registry_; }

  // Everything as it is now, in the text exposition format 0.0.4.
  std::string Text() const;
  static constexpr char kContentType[] = "text/plain; version=0.0.4; charset=utf-8";

 private:
  const std::unique_ptr<prometheus::Registry> registry_;
};

}  // namespace laplaced
