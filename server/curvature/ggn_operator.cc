#include "server/curvature/ggn_operator.h"

#include <algorithm>

#include "server/model/torch_status.h"

namespace laplaced {

GgnOperator::GgnOperator(const EmpiricalRisk& risk, const at::Tensor& rows,
                         const CurvatureSpec& spec)
    : risk_(risk),
      n_(rows.size(0)),
      rows_(risk.data.Here(rows)),
      chunk_(ProductChunk(risk, rows_.size(0))),
      spec_(spec),
      inputs_(risk.NetworkInput(risk.data.inputs.index_select(0, rows_))) {}

absl::StatusOr<at::Tensor> GgnOperator::Apply(const at::Tensor& block) const {
  return CatchTorch("curvature product", [&]() -> absl::StatusOr<at::Tensor> {
    at::NoGradGuard no_grad;
    at::Tensor result = at::empty(block.sizes(), block.options());
    for (int64_t i = 0; i < block.size(1); ++i) {
      LAPLACED_ASSIGN_OR_RETURN(const at::Tensor product,
                                ApplyOne(block.select(1, i).to(risk_.network.dtype())));
      result.select(1, i).copy_(product);
    }
    return result;
  });
}

absl::StatusOr<at::Tensor> GgnOperator::ApplyOne(const at::Tensor& v) const {
  const int64_t n = inputs_.size(0);
  at::Tensor sum = at::zeros({Rows()}, at::kDouble);
  for (int64_t begin = 0; begin < n; begin += chunk_) {
    const at::Tensor x = inputs_.narrow(0, begin, std::min(chunk_, n - begin));
    const auto [f, jv] = risk_.network.ForwardAndJvp(x, v);
    sum += risk_.network.Vjp(f, ApplyInOutputs(begin, f.detach(), jv));
  }
  LAPLACED_RETURN_IF_ERROR(SumProducts(risk_, sum));
  return sum / static_cast<double>(n_);
}

at::Tensor GgnOperator::ApplyInOutputs(int64_t begin, const at::Tensor& f,
                                       const at::Tensor& jv) const {
  if (spec_.kind == CurvatureKind::kGgn) return risk_.likelihood.ApplyHessian(f, jv);
  const at::Tensor rows = rows_.narrow(0, begin, f.size(0));
  const at::Tensor factor =
      OutputFactor(spec_, risk_.likelihood, f, risk_.data.targets.index_select(0, rows),
                   rows + risk_.data.first);
  return at::bmm(factor, at::bmm(factor.transpose(1, 2), jv.unsqueeze(2))).squeeze(2);
}

}  // namespace laplaced
