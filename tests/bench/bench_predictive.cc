// What an exact functional variance costs, beside the network's forward pass and the full-Jacobian
// way, in one run.
//
//   forward/NET/batch:B           f(x)
//   exact/NET/K:K/batch:B         f, T = JU and G = JJ' without Jacobians
//   (server/curvature/jacobian_products.h) full_jacobian/NET/K:K/batch:B the usual way: one reverse
//   pass per example and output, the batch x C x P Jacobian kept in
//                                 memory, then contracted
//   gemm                          single-precision matrix product, the machine's measured limit
//
// Counters: ms_per_image; GFLOPS (gemm); peak_MB, how far the peak memory rose above what the
// process held before (memory that earlier benchmarks freed may be used again). Ratios between rows
// are what to quote. Run alone on a quiet machine:
//   bench_predictive --benchmark_filter=resnet20
#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>
#include <torch/autograd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <string>

#include "server/curvature/jacobian_products.h"
#include "server/model/torch_runtime.h"
#include "tests/bench/networks.h"

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

// Time and memory of one benchmark, from construction to Report.
class Meter {
 public:
  Meter() {
    std::ofstream("/proc/self/clear_refs") << 5;  // the peak starts over
    memory_ = ProcessMegabytes("VmRSS");
    start_ = std::chrono::steady_clock::now();
  }
  void Report(benchmark::State& state, int64_t images) const {
    const std::chrono::duration<double, std::milli> elapsed =
        std::chrono::steady_clock::now() - start_;
    state.counters["ms_per_image"] =
        elapsed.count() / static_cast<double>(state.iterations() * images);
    state.counters["peak_MB"] = ProcessMegabytes("VmHWM") - memory_;
  }

 private:
  double memory_;
  std::chrono::steady_clock::time_point start_;
};

at::Tensor Directions(const Network& network, int64_t k) {
  at::manual_seed(1);
  return std::get<0>(at::linalg_qr(at::randn({network.n_parameters(), k}))).contiguous();
}

void Forward(benchmark::State& state, const BenchNetwork& net, int64_t batch) {
  const at::Tensor x = net.network.TrialInputs(batch);
  net.network.Forward(x);
  const Meter meter;
  for (auto _ : state) benchmark::DoNotOptimize(net.network.Forward(x));
  meter.Report(state, batch);
}

void Exact(benchmark::State& state, const BenchNetwork& net, int64_t batch, int64_t k) {
  const at::Tensor x = net.network.TrialInputs(batch), u = Directions(net.network, k);
  const Meter meter;
  for (auto _ : state) {
    const auto products = ComputeJacobianProducts(net.network, net.capture, x, u);
    if (!products.ok()) state.SkipWithError(std::string(products.status().message()).c_str());
  }
  meter.Report(state, batch);
}

void FullJacobian(benchmark::State& state, const BenchNetwork& net, int64_t batch, int64_t k) {
  const at::Tensor x = net.network.TrialInputs(batch), u = Directions(net.network, k);
  const std::vector<bool> none(net.network.parameters().size(), false);
  const Meter meter;
  for (auto _ : state) {
    std::vector<at::Tensor> rows;
    for (int64_t n = 0; n < batch; ++n)
      rows.push_back(GenericJacobian(net.network, x.narrow(0, n, 1), none));
    const at::Tensor jacobian = at::stack(rows);
    benchmark::DoNotOptimize(at::einsum("ncp,pk->nck", {jacobian, u}));
    benchmark::DoNotOptimize(at::einsum("ncp,ndp->ncd", {jacobian, jacobian}));
  }
  meter.Report(state, batch);
}

void Gemm(benchmark::State& state) {
  constexpr int64_t kSize = 1024;
  const at::Tensor a = at::rand({kSize, kSize}), b = at::rand({kSize, kSize});
  at::Tensor c = at::empty({kSize, kSize});
  for (auto _ : state) at::mm_out(c, a, b);
  state.counters["GFLOPS"] = benchmark::Counter(2e-9 * kSize * kSize * kSize,
                                                benchmark::Counter::kIsIterationInvariantRate);
}

void Register(const BenchNetwork& net) {
  const auto add = [&](const std::string& name, auto run) {
    benchmark::RegisterBenchmark(name.c_str(), run)->Unit(benchmark::kMillisecond)->UseRealTime();
  };
  for (int64_t batch : {1, 8, 32, 128}) {
    const std::string suffix = "/batch:" + std::to_string(batch);
    add("forward/" + net.name + suffix,
        [&net, batch](benchmark::State& s) { Forward(s, net, batch); });
    for (int64_t k : {10, 50, 200}) {
      add("exact/" + net.name + "/K:" + std::to_string(k) + suffix,
          [&net, batch, k](benchmark::State& s) { Exact(s, net, batch, k); });
    }
  }
  for (int64_t batch : {1, 8}) {
    add("full_jacobian/" + net.name + "/K:50/batch:" + std::to_string(batch),
        [&net, batch](benchmark::State& s) { FullJacobian(s, net, batch, 50); });
  }
}

}  // namespace
}  // namespace laplaced::bench

int main(int argc, char** argv) {
  laplaced::ReexecWithPassiveOpenMp(argv);
  if (const absl::Status status = laplaced::InitTorchRuntime(0, false); !status.ok()) {
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    return 1;
  }
  benchmark::Initialize(&argc, argv);
  const auto networks = laplaced::bench::LoadBenchNetworks();
  benchmark::RegisterBenchmark("gemm", laplaced::bench::Gemm)
      ->Unit(benchmark::kMillisecond)
      ->UseRealTime();
  for (const auto& net : networks) laplaced::bench::Register(net);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
