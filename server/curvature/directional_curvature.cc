#include "server/curvature/directional_curvature.h"

#include <algorithm>
#include <limits>

#include "server/model/torch_status.h"

namespace laplaced {

void RunningMoments::Add(const at::Tensor& samples) {
  const int64_t n = samples.size(0);
  if (n == 0) return;
  const at::Tensor batch_mean = samples.mean(0);
  const at::Tensor batch_m2 = (samples - batch_mean).square().sum(0);
  if (count == 0) {
    mean = batch_mean;
    m2 = batch_m2;
  } else {
    const at::Tensor delta = batch_mean - mean;
    const double a = static_cast<double>(count), b = static_cast<double>(n);
    mean = mean + delta * (b / (a + b));
    m2 = m2 + batch_m2 + delta.square() * (a * b / (a + b));
  }
  count += n;
}

at::Tensor RunningMoments::StandardError() const {
  if (count < 2) return at::full_like(mean, std::numeric_limits<double>::infinity());
  return (m2 / static_cast<double>((count - 1) * count)).sqrt();
}

ExampleCurvature CurvaturePerExample(const JacobianProducts& products,
                                     const Likelihood& likelihood) {
  const at::Tensor f = products.f.to(at::kDouble);
  ExampleCurvature curvature;
  curvature.along = (products.t * likelihood.ApplyHessianBlock(f, products.t)).sum(1);
  // tr(J' Lambda J) = sum over a, b of Lambda_ab (J J')_ab
  curvature.trace = (likelihood.Hessian(f) * products.g).sum({1, 2});
  return curvature;
}

absl::StatusOr<DirectionalCurvature> MeasureCurvature(const EmpiricalRisk& risk,
                                                      const CapturePlan& plan,
                                                      const at::Tensor& rows,
                                                      const at::Tensor& directions,
                                                      const ProgressFn& progress) {
  return CatchTorch("directional curvature", [&]() -> absl::StatusOr<DirectionalCurvature> {
    RunningMoments along, trace;
    const int64_t n = rows.size(0);
    const int64_t chunk = std::min(risk.chunk_size, ExamplesPerStep(risk.network));
    for (int64_t begin = 0; begin < n; begin += chunk) {
      const int64_t count = std::min(chunk, n - begin);
      const at::Tensor x =
          risk.NetworkInput(risk.data.inputs.index_select(0, rows.narrow(0, begin, count)));
      LAPLACED_ASSIGN_OR_RETURN(const JacobianProducts products,
                                ComputeJacobianProducts(risk.network, plan, x, directions));
      const ExampleCurvature curvature = CurvaturePerExample(products, risk.likelihood);
      along.Add(curvature.along);
      trace.Add(curvature.trace.unsqueeze(1));
      if (progress) LAPLACED_RETURN_IF_ERROR(progress(begin + count, n));
    }
    DirectionalCurvature result;
    result.count = n;
    result.values = along.mean;
    result.standard_errors = along.StandardError();
    result.trace = trace.mean.item<double>();
    result.trace_standard_error = trace.StandardError().item<double>();
    return result;
  });
}

}  // namespace laplaced
