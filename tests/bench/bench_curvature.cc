// What a product with a curvature matrix costs, beside a forward pass and a gradient, in one run,
// at batch 128.
//
//   forward/NET               f(x)
//   gradient/NET              of the mean loss: forward pass and one reverse pass
//   ggn/NET                   by forward mode and one reverse pass
//   (server/curvature/ggn_operator.h) ggn_double_backward/NET   the same product without forward
//   mode: J v as the derivative of J'u in u mc_fisher/NET  empirical_fisher/NET  hessian/NET
//
// Counters: ms_per_product (or per forward pass or gradient), peak_MB. Every row is the minimum of
// several repetitions. Ratios between rows are what to quote: a GGN product should cost no more
// than 1.5 gradients and a forward pass. Run alone on a quiet machine:
//   bench_curvature --benchmark_filter=resnet20
#include <benchmark/benchmark.h>
#include <torch/autograd.h>

#include <memory>
#include <string>
#include <vector>

#include "server/curvature/curvature_operator.h"
#include "tests/bench/meter.h"

namespace laplaced::bench {
namespace {

constexpr int64_t kBatch = 128;

EmpiricalRisk MakeRisk(const BenchNetwork& net) {
  Manifest manifest;
  manifest.input_shape = net.network.input_shape();
  manifest.n_outputs = net.network.n_outputs();
  return {net.network,
          manifest.likelihood,
          manifest,
          {net.network.TrialInputs(kBatch),
           at::arange(kBatch, at::kLong).remainder(net.network.n_outputs())}};
}

at::Tensor Direction(const Network& network) {
  at::manual_seed(1);
  return at::randn({network.n_parameters(), 1}, at::kDouble);
}

void Forward(benchmark::State& state, const EmpiricalRisk& risk) {
  risk.network.Forward(risk.data.inputs);
  Meter meter;
  for (auto _ : state) {
    benchmark::DoNotOptimize(risk.network.Forward(risk.data.inputs));
    meter.Lap();
  }
  meter.ReportLeast(state);
}

void Gradient(benchmark::State& state, const EmpiricalRisk& risk) {
  Meter meter;
  for (auto _ : state) {
    const at::Tensor f = risk.network.ForwardWithGraph(risk.data.inputs);
    const at::Tensor s = risk.likelihood.LossGradient(f.detach(), risk.data.targets);
    benchmark::DoNotOptimize(risk.network.Vjp(f, s / kBatch));
    meter.Lap();
  }
  meter.ReportLeast(state);
}

void DoubleBackward(benchmark::State& state, const EmpiricalRisk& risk) {
  const Network& network = risk.network;
  std::vector<at::Tensor> leaves, tangents;
  const at::Tensor v = Direction(network).squeeze(1).to(network.dtype());
  for (const Parameter& p : network.parameters()) {
    leaves.push_back(p.value);
    tangents.push_back(v.narrow(0, p.offset, p.value.numel()).view(p.value.sizes()));
  }
  Meter meter;
  for (auto _ : state) {
    const at::Tensor f = network.ForwardWithGraph(risk.data.inputs);
    const at::Tensor u = at::zeros_like(f.detach()).requires_grad_(true);
    const auto ju = torch::autograd::grad({f}, leaves, {u}, /*retain_graph=*/true,
                                          /*create_graph=*/true);
    const at::Tensor jv = torch::autograd::grad(ju, {u}, tangents, /*retain_graph=*/true)[0];
    const at::Tensor s = risk.likelihood.ApplyHessian(f.detach(), jv);
    benchmark::DoNotOptimize(network.Vjp(f, s / kBatch));
    meter.Lap();
  }
  meter.ReportLeast(state);
}

void Product(benchmark::State& state, const EmpiricalRisk& risk, const CurvatureSpec& spec) {
  const auto op = MakeCurvatureOperator(risk, at::arange(kBatch, at::kLong), spec);
  const at::Tensor v = Direction(risk.network);
  Meter meter;
  for (auto _ : state) {
    const auto product = op->Apply(v);
    if (!product.ok()) state.SkipWithError(std::string(product.status().message()).c_str());
    meter.Lap();
  }
  meter.ReportLeast(state);
}

void Register(const BenchNetwork& net) {
  const auto risk = std::make_shared<const EmpiricalRisk>(MakeRisk(net));
  const auto add = [&](const std::string& name, auto run) {
    Add(name + "/" + net.name, [risk, run](benchmark::State& state) {
      run(state, *risk);
    })->MinTime(2);
  };
  const auto product = [](CurvatureKind kind) {
    return [kind](benchmark::State& state, const EmpiricalRisk& of) { Product(state, of, {kind}); };
  };
  add("forward", Forward);
  add("gradient", Gradient);
  add("ggn", product(CurvatureKind::kGgn));
  add("ggn_double_backward", DoubleBackward);
  add("mc_fisher", product(CurvatureKind::kMcFisher));
  add("empirical_fisher", product(CurvatureKind::kEmpiricalFisher));
  add("hessian", product(CurvatureKind::kHessian));
}

}  // namespace
}  // namespace laplaced::bench

int main(int argc, char** argv) {
  return laplaced::bench::RunBenchmarks(argc, argv, laplaced::bench::Register);
}
