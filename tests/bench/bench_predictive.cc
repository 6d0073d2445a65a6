// What an exact functional variance costs, beside the network's forward pass and the full-Jacobian
// way, in one run.
//
//   forward/NET/batch:B           f(x)
//   exact/NET/K:K/batch:B         f, T = JU and G = JJ' without Jacobians (jacobian_products.h)
//   served/NET/RESIDUAL/batch:B   what a request costs: covariance at one prior precision and
//                                 variance at another, K = 50, for each kind of residual
//   full_jacobian/NET/K:K/batch:B the usual way: one reverse pass per example and output, the
//                                 batch x C x P Jacobian kept in memory, then contracted
//   gemm                          single-precision matrix product, the machine's measured limit
//
// Counters: ms_per_image; GFLOPS (gemm); peak_MB, how far the peak memory rose above what the
// process held before (memory that earlier benchmarks freed may be used again). Ratios between rows
// are what to quote. Run alone on a quiet machine:
//   bench_predictive --benchmark_filter=resnet20
#include <benchmark/benchmark.h>
#include <torch/autograd.h>

#include <string>

#include "server/curvature/jacobian_products.h"
#include "server/laplace/low_rank_fit.h"
#include "tests/bench/meter.h"

namespace laplaced::bench {
namespace {

at::Tensor Directions(const Network& network, int64_t k) {
  at::manual_seed(1);
  return std::get<0>(at::linalg_qr(at::randn({network.n_parameters(), k}))).contiguous();
}

void Forward(benchmark::State& state, const BenchNetwork& net, int64_t batch) {
  const at::Tensor x = net.network.TrialInputs(batch);
  net.network.Forward(x);
  const Meter meter;
  for (auto _ : state) benchmark::DoNotOptimize(net.network.Forward(x));
  meter.ReportImages(state, batch);
}

void Exact(benchmark::State& state, const BenchNetwork& net, int64_t batch, int64_t k) {
  const at::Tensor x = net.network.TrialInputs(batch), u = Directions(net.network, k);
  const Meter meter;
  for (auto _ : state) {
    const auto products = ComputeJacobianProducts(net.network, net.capture, x, u);
    if (!products.ok()) state.SkipWithError(std::string(products.status().message()).c_str());
  }
  meter.ReportImages(state, batch);
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
  meter.ReportImages(state, batch);
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
  meter.ReportImages(state, batch);
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
    Add("full_jacobian/" + net.name + "/K:50/batch:" + std::to_string(batch),
        [&net, batch](benchmark::State& s) { FullJacobian(s, net, batch, 50); });
  }
}

}  // namespace
}  // namespace laplaced::bench

int main(int argc, char** argv) {
  laplaced::bench::Add("gemm", laplaced::bench::Gemm);
  return laplaced::bench::RunBenchmarks(argc, argv, laplaced::bench::Register);
}
