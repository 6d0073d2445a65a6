// What an exact functional variance costs, beside the network's forward pass and the full-Jacobian
// way, in one run.
//
//   forward/NET/batch:B           f(x)
//   exact/NET/K:K/batch:B         f, T = JU and G = JJ' without Jacobians (jacobian_products.h)
//   busy/NET/K:50/batch:1         the same with a neighbour that keeps one core busy; x_quiet is
//   the
//                                 time over that without
//   top_classes/NET/K:50/batch:B  the same for the three outputs with the largest logits
//   last_layer/NET/K:50/batch:B   the same for the last layer's parameters alone
//   sampled/NET/batch:B           64 draws of the outputs by forward-mode products
//   served/NET/RESIDUAL/batch:B   what a request costs: covariance at one prior precision and
//                                 variance at another, K = 50, for each kind of residual
//   jacrev/NET/K:50/batch:B       the covariance as laplace-torch 0.2.3 computes it: one vectorised
//                                 reverse pass for the batch's outputs, Jacobian kept, two einsums
//   one_by_one/NET/K:50/batch:B   the same from one reverse pass per example and output
//   gemm                          single-precision matrix product, the machine's measured limit
//
// Counters: ms_per_image; peak_MB, how far the peak memory rose above what the process held before;
// x_forward, time over that of the forward pass at this batch; for exact, GFLOPS of the arithmetic
// that the method needs (ExactFlops) and x_arithmetic, time over what that would take at the rate
// of matrix products, measured right before and after the row. Ratios are what to quote. Run alone
// on a quiet machine:
//   bench_predictive --benchmark_filter=resnet20
#include <benchmark/benchmark.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "server/curvature/jacobian_products.h"
#include "server/laplace/function_sampler.h"
#include "server/laplace/low_rank_fit.h"
#include "server/laplace/low_rank_structure.h"
#include "server/model/parameter_selection.h"
#include "tests/bench/full_jacobian.h"
#include "tests/bench/meter.h"

namespace laplaced::bench {
namespace {

at::Tensor Directions(const Network& network, int64_t k) {
  at::manual_seed(1);
  return std::get<0>(at::linalg_qr(at::randn({network.n_parameters(), k}))).contiguous();
}

// Of one example: forward pass, C reverse passes, C weight gradients per layer, J U, and J J' as a
// symmetric matrix.
double ExactFlops(const BenchNetwork& net, int64_t k) {
  const auto c = static_cast<double>(net.network.n_outputs()),
             p = static_cast<double>(net.network.n_parameters());
  return 2 * net.capture.forward_macs * (1 + 2 * c) + 2 * c * static_cast<double>(k) * p +
         c * (c + 1) * p;
}

// Milliseconds per image of the forward pass, by network and batch, once measured.
std::map<std::pair<std::string, int64_t>, double> forward_ms;

void Report(benchmark::State& state, const Meter& meter, const BenchNetwork& net, int64_t batch) {
  meter.ReportImages(state, batch);
  if (const auto it = forward_ms.find({net.name, batch}); it != forward_ms.end()) {
    state.counters["x_forward"] = state.counters["ms_per_image"] / it->second;
  }
}

void Forward(benchmark::State& state, const BenchNetwork& net, int64_t batch) {
  const at::Tensor x = net.network.TrialInputs(batch);
  net.network.Forward(x);
  const Meter meter;
  for (auto _ : state) benchmark::DoNotOptimize(net.network.Forward(x));
  meter.ReportImages(state, batch);
  forward_ms[{net.name, batch}] = state.counters["ms_per_image"];
}

void RunExact(benchmark::State& state, const BenchNetwork& net, const at::Tensor& x,
              const at::Tensor& u, const JacobianOptions& options = {}) {
  for (auto _ : state) {
    const auto products = ComputeJacobianProducts(net.network, net.capture, x, u, options);
    if (!products.ok()) state.SkipWithError(std::string(products.status().message()).c_str());
  }
}

// Of the exact rows, by network, batch and K.
std::map<std::tuple<std::string, int64_t, int64_t>, double> exact_ms;

void Exact(benchmark::State& state, const BenchNetwork& net, int64_t batch, int64_t k) {
  const at::Tensor x = net.network.TrialInputs(batch), u = Directions(net.network, k);
  const double before = GemmGflops();
  const Meter meter;
  RunExact(state, net, x, u);
  Report(state, meter, net, batch);
  exact_ms[{net.name, batch, k}] = state.counters["ms_per_image"];
  const double rate = (before + GemmGflops()) / 2;
  const double gflops = ExactFlops(net, k) * 1e-6 / state.counters["ms_per_image"];
  state.counters["GFLOPS"] = gflops;
  state.counters["x_arithmetic"] = rate / gflops;
}

// Keeps one core busy for as long as it lives.
class BusyNeighbour {
 public:
  BusyNeighbour()
      : thread_([this] {
          while (!stop_.load(std::memory_order_relaxed)) {
          }
        }) {}
  ~BusyNeighbour() {
    stop_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

void Busy(benchmark::State& state, const BenchNetwork& net) {
  const at::Tensor x = net.network.TrialInputs(1), u = Directions(net.network, 50);
  const BusyNeighbour neighbour;
  const Meter meter;
  RunExact(state, net, x, u);
  Report(state, meter, net, 1);
  if (const auto it = exact_ms.find({net.name, 1, 50}); it != exact_ms.end()) {
    state.counters["x_quiet"] = state.counters["ms_per_image"] / it->second;
  }
}

// The three outputs of each example with the largest logits.
void TopClasses(benchmark::State& state, const BenchNetwork& net, int64_t batch) {
  constexpr int64_t kTop = 3;
  const at::Tensor x = net.network.TrialInputs(batch), u = Directions(net.network, 50);
  JacobianOptions options;
  options.columns = kTop;
  options.output_factor = [](const at::Tensor& f, int64_t) {
    const at::Tensor top = std::get<1>(f.topk(kTop, 1));
    return at::zeros({f.size(0), f.size(1), kTop}, f.options()).scatter_(1, top.unsqueeze(1), 1);
  };
  const Meter meter;
  RunExact(state, net, x, u, options);
  Report(state, meter, net, batch);
}

void LastLayer(benchmark::State& state, const BenchNetwork& net, int64_t batch) {
  const at::Tensor x = net.network.TrialInputs(batch), u = Directions(net.network, 50);
  const std::vector<std::string> names = LastLayerParameters(net.network);
  JacobianOptions options;
  for (const Parameter& p : net.network.parameters()) {
    options.parameters.push_back(std::find(names.begin(), names.end(), p.name) != names.end());
  }
  const Meter meter;
  RunExact(state, net, x, u, options);
  Report(state, meter, net, batch);
}

// A low-rank curvature of rank K for measuring; its numbers mean nothing.
LowRankCurvature SomeCurvature(const Network& network, int64_t k, ResidualKind kind) {
  LowRankCurvature curvature;
  curvature.directions = Directions(network, k);
  curvature.curvature = at::ones({k}, at::kDouble);
  curvature.residual_kind = kind;
  curvature.block_sizes = BlockSizes(network);
  const int64_t sizes[] = {1, static_cast<int64_t>(curvature.block_sizes.size()),
                           network.n_parameters()};
  curvature.residual = at::full({sizes[static_cast<int>(kind) - 1]}, 1e-3, at::kDouble);
  return curvature;
}

void Sampled(benchmark::State& state, const BenchNetwork& net, int64_t batch) {
  const LowRankStructure structure(SomeCurvature(net.network, 50, ResidualKind::kLayerwise));
  const FunctionSampler sampler(net.network);
  const at::Tensor x = net.network.TrialInputs(batch);
  const Meter meter;
  for (auto _ : state) {
    const absl::Status status = sampler.ForEachDraw(
        structure, {50000, 100}, {x}, {1, 64, {}}, [](int64_t, size_t, const at::Tensor&) {},
        [] { return absl::OkStatus(); });
    if (!status.ok()) state.SkipWithError(std::string(status.message()).c_str());
  }
  Report(state, meter, net, batch);
}

struct Residual {
  const char* name;
  ResidualKind kind;
};
constexpr Residual kResiduals[] = {{"isotropic", ResidualKind::kIsotropic},
                                   {"layerwise", ResidualKind::kLayerwise},
                                   {"diagonal", ResidualKind::kDiagonal}};

void Served(benchmark::State& state, const BenchNetwork& net, int64_t batch, ResidualKind kind) {
  constexpr int64_t kRank = 50;
  const at::Tensor x = net.network.TrialInputs(batch);
  const LowRankStructure structure(SomeCurvature(net.network, kRank, kind));
  LinearizeRequest request;
  request.covariance_at = {{50000, 100}};
  request.variance_at = {{50000, 25}};
  const Meter meter;
  for (auto _ : state) {
    const auto linearized = structure.Linearize(net.network, net.capture, x, request);
    if (!linearized.ok()) state.SkipWithError(std::string(linearized.status().message()).c_str());
  }
  Report(state, meter, net, batch);
}

void FullJacobian(benchmark::State& state, const BenchNetwork& net, int64_t batch,
                  at::Tensor (*jacobians)(const Network& network, const at::Tensor& x)) {
  const at::Tensor x = net.network.TrialInputs(batch), u = Directions(net.network, 50);
  const at::Tensor shrinkage = at::full({50}, 0.5);
  const Meter meter;
  for (auto _ : state) {
    benchmark::DoNotOptimize(VarianceByEinsum(jacobians(net.network, x), u, shrinkage, 25));
  }
  Report(state, meter, net, batch);
}

void Gemm(benchmark::State& state) {
  double rate = 0;
  for (auto _ : state) rate = GemmGflops();
  state.counters["GFLOPS"] = rate;
}

void Register(const BenchNetwork& net) {
  for (int64_t batch : {1, 8, 32, 128}) {
    const std::string suffix = "/batch:" + std::to_string(batch);
    Add("forward/" + net.name + suffix,
        [&net, batch](benchmark::State& s) { Forward(s, net, batch); });
    for (int64_t k : {10, 50, 200}) {
      Add("exact/" + net.name + "/K:" + std::to_string(k) + suffix,
          [&net, batch, k](benchmark::State& s) { Exact(s, net, batch, k); });
    }
  }
  Add("busy/" + net.name + "/K:50/batch:1", [&net](benchmark::State& s) { Busy(s, net); });
  for (int64_t batch : {1, 32}) {
    const std::string suffix = "/" + net.name + "/K:50/batch:" + std::to_string(batch);
    Add("top_classes" + suffix, [&net, batch](benchmark::State& s) { TopClasses(s, net, batch); });
    Add("last_layer" + suffix, [&net, batch](benchmark::State& s) { LastLayer(s, net, batch); });
    Add("sampled/" + net.name + "/batch:" + std::to_string(batch),
        [&net, batch](benchmark::State& s) { Sampled(s, net, batch); });
  }
  for (const Residual& residual : kResiduals) {
    for (int64_t batch : {1, 32}) {
      Add("served/" + net.name + "/" + residual.name + "/batch:" + std::to_string(batch),
          [&net, batch, kind = residual.kind](benchmark::State& s) {
            Served(s, net, batch, kind);
          });
    }
  }
  for (int64_t batch : {1, 8, 32}) {
    const std::string suffix = "/" + net.name + "/K:50/batch:" + std::to_string(batch);
    Add("jacrev" + suffix,
        [&net, batch](benchmark::State& s) { FullJacobian(s, net, batch, JacobiansByJacrev); });
    Add("one_by_one" + suffix,
        [&net, batch](benchmark::State& s) { FullJacobian(s, net, batch, JacobiansOneByOne); });
  }
}

}  // namespace
}  // namespace laplaced::bench

int main(int argc, char** argv) {
  laplaced::bench::Add("gemm", laplaced::bench::Gemm);
  return laplaced::bench::RunBenchmarks(argc, argv, laplaced::bench::Register);
}
