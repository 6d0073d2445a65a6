#include "server/curvature/jacobian_products.h"

#include <algorithm>
#include <map>

#include "server/model/torch_status.h"

namespace laplaced {
namespace {

// Adds the share of some parameters: jacobian [b, C, p], their rows of U [p, K]; t and g are the
// slices of b examples.
void Accumulate(const at::Tensor& jacobian, const at::Tensor& directions, at::Tensor t,
                at::Tensor g) {
  const int64_t b = jacobian.size(0), c = jacobian.size(1), p = jacobian.size(2);
  g.add_(at::bmm(jacobian, jacobian.transpose(1, 2)));
  if (directions.size(1) > 0) {
    t.add_(at::mm(jacobian.reshape({b * c, p}), directions).view({b, c, directions.size(1)}));
  }
}

// One parameter with everything that adds to its gradient.
struct Contribution {
  std::vector<std::pair<size_t, const ParameterUse*>> uses;  // (node, use)
};

void AddCaptured(const Network& network, const CapturedForward& forward,
                 const at::Tensor& directions, const JacobianOptions& options,
                 JacobianProducts& products) {
  const std::vector<at::Tensor> grads = forward.OutputGradients();
  std::map<size_t, Contribution> by_parameter;
  for (size_t n = 0; n < forward.nodes.size(); ++n) {
    if (!grads[n].defined()) continue;
    for (const auto& [parameter, use] : forward.nodes[n].uses) {
      by_parameter[parameter].uses.emplace_back(n, use.get());
    }
  }
  const int64_t batch = products.f.size(0), c = products.f.size(1);
  for (const auto& [index, contribution] : by_parameter) {
    const Parameter& parameter = network.parameters()[index];
    const int64_t numel = parameter.value.numel();
    const at::Tensor u = directions.narrow(0, parameter.offset, numel);
    const int64_t tile = std::max<int64_t>(
        1, options.tile_bytes / std::max<int64_t>(1, c * numel * parameter.value.element_size()));
    for (int64_t begin = 0; begin < batch; begin += tile) {
      const int64_t count = std::min(tile, batch - begin);
      at::Tensor jacobian;
      for (const auto& [node, use] : contribution.uses) {
        const at::Tensor part = use->Jacobian(grads[node], begin, count);
        jacobian = jacobian.defined() ? jacobian + part : part;
      }
      Accumulate(jacobian, u, products.t.narrow(0, begin, count),
                 products.g.narrow(0, begin, count));
    }
  }
}

void AddGeneric(const Network& network, const CaptureMask& mask, const at::Tensor& x,
                const at::Tensor& directions, JacobianProducts& products) {
  std::vector<at::Tensor> rows;
  for (size_t i = 0; i < mask.size(); ++i) {
    const Parameter& parameter = network.parameters()[i];
    if (!mask[i]) rows.push_back(directions.narrow(0, parameter.offset, parameter.value.numel()));
  }
  if (rows.empty()) return;
  const at::Tensor u = at::cat(rows);
  for (int64_t n = 0; n < x.size(0); ++n) {
    const at::Tensor jacobian = GenericJacobian(network, x.narrow(0, n, 1), mask).unsqueeze(0);
    Accumulate(jacobian, u, products.t.narrow(0, n, 1), products.g.narrow(0, n, 1));
  }
}

}  // namespace

absl::StatusOr<JacobianProducts> ComputeJacobianProducts(const Network& network,
                                                         const CaptureMask& mask,
                                                         const at::Tensor& x,
                                                         const at::Tensor& directions,
                                                         const JacobianOptions& options) {
  return CatchTorch("functional variance", [&]() -> absl::StatusOr<JacobianProducts> {
    at::NoGradGuard no_grad;
    const CapturedForward forward = ForwardCaptured(network, x, mask);
    JacobianProducts products;
    products.f = forward.outputs.detach();
    const int64_t b = products.f.size(0), c = products.f.size(1);
    products.t = at::zeros({b, c, directions.size(1)}, at::kDouble);
    products.g = at::zeros({b, c, c}, at::kDouble);
    AddCaptured(network, forward, directions, options, products);
    AddGeneric(network, mask, x, directions, products);
    return products;
  });
}

}  // namespace laplaced
