#include "tests/bench/meter.h"

#include <malloc.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <utility>

#include "server/model/torch_runtime.h"

namespace laplaced::bench {
namespace {

// "VmHWM" (peak) or "VmRSS" (present) of this process, MB.
double ProcessMegabytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(field + ":", 0) == 0)
      return std::strtod(line.c_str() + field.size() + 1, nullptr) / 1024;
  }
  return 0;
}

}  // namespace

Meter::Meter() {
  malloc_trim(0);  // memory that others freed would hide what is needed now
  std::ofstream("/proc/self/clear_refs") << 5;  // the peak starts over
  memory_ = ProcessMegabytes("VmRSS");
  start_ = lap_ = Clock::now();
}

void Meter::Lap() {
  const Clock::time_point now = Clock::now();
  least_ = std::min<Milliseconds>(least_, now - lap_);
  lap_ = now;
}

void Meter::ReportImages(benchmark::State& state, int64_t images) const {
  const Milliseconds elapsed = Clock::now() - start_;
  state.counters["ms_per_image"] =
      elapsed.count() / static_cast<double>(state.iterations() * images);
  ReportMemory(state);
}

void Meter::ReportLeast(benchmark::State& state) const {
  state.counters["least_ms"] = least_.count();
  ReportMemory(state);
}

void Meter::ReportMemory(benchmark::State& state) const {
  state.counters["peak_MB"] = ProcessMegabytes("VmHWM") - memory_;
}

double GemmGflops() {
  constexpr int64_t kSize = 1024, kTimes = 16;
  const at::Tensor a = at::rand({kSize, kSize}), b = at::rand({kSize, kSize});
  at::Tensor c = at::empty({kSize, kSize});
  at::mm_out(c, a, b);
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < kTimes; ++i) at::mm_out(c, a, b);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  return 2e-9 * kTimes * kSize * kSize * kSize / elapsed.count();
}

benchmark::internal::Benchmark* Add(const std::string& name,
                                    std::function<void(benchmark::State&)> run) {
  return benchmark::RegisterBenchmark(name.c_str(), std::move(run))
      ->Unit(benchmark::kMillisecond)
      ->UseRealTime();
}

int RunBenchmarks(int argc, char** argv, void (*add)(const BenchNetwork& network)) {
  ReexecWithPassiveOpenMp(argv);
  if (const absl::Status status = InitTorchRuntime(0, false); !status.ok()) {
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    return 1;
  }
  benchmark::Initialize(&argc, argv);
  const std::vector<BenchNetwork> networks = LoadBenchNetworks();
  for (const BenchNetwork& network : networks) add(network);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace laplaced::bench
