#include "tests/bench/full_jacobian.h"

#include <ATen/functorch/BatchedTensorImpl.h>
#include <ATen/functorch/DynamicLayer.h>
#include <torch/autograd.h>

#include <vector>

#include "server/model/layer_capture.h"

namespace laplaced::bench {
namespace {

// One level of vectorisation, for as long as it lives.
class VmapScope {
 public:
  explicit VmapScope(int64_t size)
      : level_(at::functorch::initAndPushDynamicLayer(at::functorch::TransformType::Vmap, size,
                                                      at::functorch::RandomnessType::Error)) {}
  ~VmapScope() { at::functorch::popDynamicLayerAndDeleteMetadata(); }
  int64_t level() const { return level_; }

 private:
  int64_t level_;
};

// [size, ...] from what came out of a vectorised operation.
at::Tensor Unwrap(const at::Tensor& t, int64_t size) {
  if (const auto* batched = at::functorch::maybeGetBatchedImpl(t)) {
    return batched->value().movedim(batched->bdim(), 0);
  }
  std::vector<int64_t> shape = t.sizes().vec();
  shape.insert(shape.begin(), size);
  return t.unsqueeze(0).expand(shape);
}

}  // namespace

at::Tensor JacobiansByJacrev(const Network& network, const at::Tensor& x) {
  const at::Tensor outputs = network.ForwardWithGraph(x);
  std::vector<at::Tensor> leaves;
  for (const Parameter& p : network.parameters()) leaves.push_back(p.value);
  const int64_t b = x.size(0), c = network.n_outputs(), rows = b * c;
  const at::Tensor seeds = at::eye(rows, outputs.options().requires_grad(false)).view({rows, b, c});
  at::NoGradGuard no_grad;
  std::vector<at::Tensor> parts;
  {
    const VmapScope vmap(rows);
    const auto grads = torch::autograd::grad({outputs}, leaves,
                                             {at::functorch::makeBatched(seeds, 0, vmap.level())});
    for (const at::Tensor& g : grads) parts.push_back(Unwrap(g, rows));
  }
  for (at::Tensor& part : parts) part = part.reshape({b, c, -1});
  return at::cat(parts, 2);
}

at::Tensor JacobiansOneByOne(const Network& network, const at::Tensor& x) {
  const std::vector<bool> none(network.parameters().size(), false);
  std::vector<at::Tensor> rows;
  for (int64_t n = 0; n < x.size(0); ++n) {
    rows.push_back(GenericJacobian(network, x.narrow(0, n, 1), none));
  }
  return at::stack(rows);
}

at::Tensor VarianceByEinsum(const at::Tensor& jacobians, const at::Tensor& u, const at::Tensor& s,
                            double delta) {
  const at::Tensor prior = at::einsum("ncp,ndp->ncd", {jacobians / delta, jacobians});
  const at::Tensor along = at::einsum("ncp,pk->nck", {jacobians / delta, u});
  return prior - at::einsum("nck,ndk->ncd", {along * s, along});
}

}  // namespace laplaced::bench
