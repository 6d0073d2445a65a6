// Small helpers for whoever registers metrics. Free functions.
#pragma once

#include <prometheus/histogram.h>
#include <prometheus/registry.h>

namespace laplaced {

// A family of `builder`'s kind: Register(prometheus::BuildCounter(), registry, "name", "help").
template <typename Builder>
auto& Register(Builder builder, prometheus::Registry& registry, const char* name,
               const char* help) {
  return builder.Name(name).Help(help).Register(registry);
}

// From a tenth of a millisecond to a minute.
inline prometheus::Histogram::BucketBoundaries SecondsBuckets() {
  return {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
          0.1,    0.25,    0.5,    1,     2.5,    5,     10,   30,    60};
}

}  // namespace laplaced
