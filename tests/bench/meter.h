// What the benchmarks have in common: time and memory of a measured loop, and their main function.
#pragma once

#include <benchmark/benchmark.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "tests/bench/networks.h"

namespace laplaced::bench {

// From construction, where the peak memory starts over, to Report.
class Meter {
 public:
  Meter();
  // The end of one iteration.
  void Lap();
  // Sets the counters ms_per_image, for `images` in each iteration, and peak_MB, how far the peak
  // memory rose above what the process held before.
  void ReportImages(benchmark::State& state, int64_t images) const;
  // Sets the counters least_ms, of the shortest iteration, and peak_MB.
  void ReportLeast(benchmark::State& state) const;

 private:
  using Clock = std::chrono::steady_clock;
  using Milliseconds = std::chrono::duration<double, std::milli>;

  void ReportMemory(benchmark::State& state) const;

  double memory_;  // MB
  Clock::time_point start_, lap_;
  Milliseconds least_ = Milliseconds::max();
};

// Single-precision matrix product of this machine now, in about a fifth of a second: 1e9 operations
// per second.
double GemmGflops();

// Registers `run` under `name`, in milliseconds of real time.
benchmark::internal::Benchmark* Add(const std::string& name,
                                    std::function<void(benchmark::State&)> run);

// Starts LibTorch as the server does, lets `add` register benchmarks of every network that is
// there, and runs them. For main.
int RunBenchmarks(int argc, char** argv, void (*add)(const BenchNetwork& network));

}  // namespace laplaced::bench
