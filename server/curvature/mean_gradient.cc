#include "server/curvature/mean_gradient.h"

#include <algorithm>

#include "server/model/torch_status.h"

namespace laplaced {

absl::StatusOr<at::Tensor> MeanGradient(const EmpiricalRisk& risk, const at::Tensor& rows) {
  return CatchTorch("gradient", [&]() -> absl::StatusOr<at::Tensor> {
    const Dataset batch = risk.data.Select(risk.data.Here(rows));
    const int64_t chunk = ProductChunk(risk, batch.size());
    at::Tensor sum = at::zeros({risk.network.n_parameters(), 1}, at::kDouble);
    for (int64_t begin = 0; begin < batch.size(); begin += chunk) {
      const Dataset part = batch.Slice(begin, std::min(begin + chunk, batch.size()));
      const at::Tensor f = risk.network.ForwardWithGraph(risk.NetworkInput(part.inputs));
      const at::Tensor seed = risk.likelihood.LossGradient(f.detach(), part.targets);
      sum.select(1, 0).add_(risk.network.Vjp(f, seed));
    }
    LAPLACED_RETURN_IF_ERROR(SumProducts(risk, sum));
    return sum.select(1, 0) / static_cast<double>(rows.size(0));
  });
}

}  // namespace laplaced
