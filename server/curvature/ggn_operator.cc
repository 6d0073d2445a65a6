#include "server/curvature/ggn_operator.h"

#include <algorithm>

#include "server/model/torch_status.h"

namespace laplaced {

GgnOperator::GgnOperator(const EmpiricalRisk& risk, const at::Tensor& rows)
    : risk_(risk), inputs_(risk.NetworkInput(risk.data.inputs.index_select(0, rows))) {}

absl::StatusOr<at::Tensor> GgnOperator::Apply(const at::Tensor& block) const {
  return CatchTorch("curvature product", [&]() -> absl::StatusOr<at::Tensor> {
    at::Tensor result = at::empty(block.sizes(), block.options());
    for (int64_t i = 0; i < block.size(1); ++i) {
      result.select(1, i).copy_(ApplyOne(block.select(1, i).to(risk_.network.dtype())));
    }
    return result;
  });
}

at::Tensor GgnOperator::ApplyOne(const at::Tensor& v) const {
  const int64_t n = inputs_.size(0);
  at::Tensor sum = at::zeros({Rows()}, at::kDouble);
  for (int64_t begin = 0; begin < n; begin += risk_.chunk_size) {
    const at::Tensor x = inputs_.narrow(0, begin, std::min(risk_.chunk_size, n - begin));
    const auto [f, jv] = risk_.network.ForwardAndJvp(x, v);
    const at::Tensor s = risk_.likelihood.ApplyHessian(f.detach(), jv);
    sum += risk_.network.Vjp(f, s);
  }
  return sum / static_cast<double>(n);
}

}  // namespace laplaced
