// What an exact functional variance costs, beside the network's forward pass and the full-Jacobian
// way, in one run.
//
//   forward/NET/batch:B           f(x)
//   exact/NET/K:K/batch:B         f, T = JU and G = JJ' without Jacobians (jacobian_products.h)
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
// of matrix products, measured right before and after the row. Ratios are what to quote. Run alone on
// a quiet machine:
//   bench_predictive --benchmark_filter=resnet20
#include <benchmark/benchmark.h>

#include <map>
#include <string>
#include <utility>

#include "server/curvature/jacobian_products.h"
#include "server/laplace/low_rank_fit.h"
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

void Exact(benchmark::State& state, const BenchNetwork& net, int64_t batch, int64_t k) {
  const at::Tensor x = net.network.TrialInputs(batch), u = Directions(net.network, k);
  const double before = GemmGflops();
  const Meter meter;
  for (auto _ : state) {
    const auto products = ComputeJacobianProducts(net.network, net.capture, x, u);
    if (!products.ok()) state.SkipWithError(std::string(products.status().message()).c_str());
  }
  Report(state, meter, net, batch);
  const double rate = (before + GemmGflops()) / 2;
  const double gflops = ExactFlops(net, k) * 1e-6 / state.counters["ms_per_image"];
  state.counters["GFLOPS"] = gflops;
  state.counters["x_arithmetic"] = rate / gflops;
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
  LowRankCurvature curvature;
  curvature.directions = Directions(net.network, kRank);
  curvature.curvature = at::ones({kRank}, at::kDouble);
  curvature.residual_kind = kind;
  curvature.block_sizes = BlockSizes(net.network);
  const int64_t sizes[] = {1, static_cast<int64_t>(curvature.block_sizes.size()),
                           net.network.n_parameters()};
  curvature.residual = at::full({sizes[static_cast<int>(kind) - 1]}, 1e-3, at::kDouble);
  const LowRankStructure structure(curvature);
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
  for (const Residual& residual : kResiduals) {
    for (int64_t batch : {1, 32}) {
      Add("served/" + net.name + "/" + residual.name + "/batch:" + std::to_string(batch),
          [&net, batch, kind = residual.kind](benchmark::State& s) {
            Served(s, net, batch, kind);
          });
    }
  }
  for (int64_t batch : {1, 8}) {
    const std::string suffix = "/" + net.name + "/K:50/batch:" + std::to_string(batch);
    Add("jacrev" + suffix, [&net, batch](benchmark::State& s) {
      FullJacobian(s, net, batch, JacobiansByJacrev);
    });
    Add("one_by_one" + suffix, [&net, batch](benchmark::State& s) {
      FullJacobian(s, net, batch, JacobiansOneByOne);
    });
  }
}

}  // namespace
}  // namespace laplaced::bench

int main(int argc, char** argv) {
  laplaced::bench::Add("gemm", laplaced::bench::Gemm);
  return laplaced::bench::RunBenchmarks(argc, argv, laplaced::bench::Register);
}
