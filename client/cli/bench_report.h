// What `laplace bench` has measured, as a table for people and as JSON. Free functions on values;
// thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "client/cli/context.h"
#include "client/cpp/load_generator.h"

namespace laplace::cli {

struct BenchRun {
  client::LoadOptions load;
  client::LoadResult result;
  double of_peak = 0;  // of a sweep: rate over the measured peak; 0 for anything else
};

// One line a run; notes below it say where the generator, not the server, was the limit.
std::string BenchTable(const std::vector<BenchRun>& runs);
// `rows` of a call.
Json BenchJson(const BenchRun& run, int64_t rows);

// How a server does far above what it can do.
struct Overload {
  double times_peak = 0;  // the load
  double p99_ratio = 0;   // of the answers, over the p99 of the lowest rate
  double goodput = 0;     // over the peak
};

// Most answers per second that a closed loop among `runs` had.
double PeakOf(const std::vector<BenchRun>& runs);

// Of a sweep, whose open loops go from the lowest to the highest rate.
Overload OverloadOf(const std::vector<BenchRun>& sweep);

}  // namespace laplace::cli
