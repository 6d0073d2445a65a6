#include "server/curvature/hessian_operator.h"

#include <torch/autograd.h>

#include <algorithm>
#include <vector>

#include "server/model/torch_status.h"

namespace laplaced {
namespace {

// The gradient of the loss summed over a chunk, with a graph of its own; `sum` adds its derivatives
// along the columns of v [P, m].
void AddProducts(const Network& network, const at::Tensor& loss, const at::Tensor& v,
                 const at::Tensor& sum) {
  std::vector<at::Tensor> leaves;
  for (const Parameter& p : network.parameters()) leaves.push_back(p.value);
  const auto gradient = torch::autograd::grad({loss}, leaves, {}, /*retain_graph=*/true,
                                              /*create_graph=*/true, /*allow_unused=*/true);
  // Parts that do not depend on the parameters have no second derivative.
  std::vector<at::Tensor> parts;
  std::vector<size_t> index;
  for (size_t i = 0; i < gradient.size(); ++i) {
    if (!gradient[i].defined() || !gradient[i].requires_grad()) continue;
    parts.push_back(gradient[i]);
    index.push_back(i);
  }
  if (parts.empty()) return;
  for (int64_t k = 0; k < v.size(1); ++k) {
    std::vector<at::Tensor> seeds;
    for (size_t i : index) {
      const Parameter& p = network.parameters()[i];
      seeds.push_back(v.select(1, k).narrow(0, p.offset, p.value.numel()).view(p.value.sizes()));
    }
    const auto products = torch::autograd::grad(parts, leaves, seeds,
                                                /*retain_graph=*/k + 1 < v.size(1),
                                                /*create_graph=*/false, /*allow_unused=*/true);
    for (size_t i = 0; i < products.size(); ++i) {
      if (!products[i].defined()) continue;
      const Parameter& p = network.parameters()[i];
      at::NoGradGuard no_grad;
      sum.select(1, k).narrow(0, p.offset, p.value.numel()).add_(products[i].flatten());
    }
  }
}

}  // namespace

HessianOperator::HessianOperator(const EmpiricalRisk& risk, const at::Tensor& rows)
    : risk_(risk),
      n_(rows.size(0)),
      batch_(risk.data.Select(risk.data.Here(rows))),
      chunk_(ProductChunk(risk, batch_.size())) {}

absl::StatusOr<at::Tensor> HessianOperator::Apply(const at::Tensor& block) const {
  return CatchTorch("Hessian product", [&]() -> absl::StatusOr<at::Tensor> {
    at::AutoGradMode with_grad(true);
    const int64_t n = batch_.size();
    // Column-major, so that the columns' parts are views.
    const at::Tensor v = block.detach().to(risk_.network.dtype()).t().contiguous().t();
    at::Tensor sum = at::zeros({block.size(1), Rows()}, at::kDouble).t();
    for (int64_t begin = 0; begin < n; begin += chunk_) {
      const Dataset chunk = batch_.Slice(begin, std::min(begin + chunk_, n));
      const at::Tensor f = risk_.network.ForwardWithGraph(risk_.NetworkInput(chunk.inputs));
      AddProducts(risk_.network, risk_.likelihood.Loss(f, chunk.targets).sum(), v, sum);
    }
    LAPLACED_RETURN_IF_ERROR(SumProducts(risk_, sum));
    return (sum / static_cast<double>(n_)).contiguous();
  });
}

}  // namespace laplaced
