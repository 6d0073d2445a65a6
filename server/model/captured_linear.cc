// Matrix products with a parameter, and the bias that addmm adds.
#include <torch/csrc/autograd/generated/Functions.h>

#include <utility>

#include "server/model/captured_kinds.h"
#include "server/model/jacobian_sums.h"

namespace laplaced {
namespace {

namespace generated = torch::autograd::generated;

// A matrix product a W (or a W' when the parameter is stored [out, in]) with T rows of a per
// example.
class LinearWeight : public ParameterUse {
 public:
  // input [B, T, in]
  LinearWeight(at::Tensor input, bool out_first)
      : input_(std::move(input)), out_first_(out_first) {}

  at::Tensor Jacobian(const at::Tensor& grads, int64_t begin, int64_t count) const override {
    const at::Tensor a = input_.narrow(0, begin, count).unsqueeze(1);  // [b, 1, T, in]
    const at::Tensor g = WithRows(grads);
    const at::Tensor w =
        out_first_ ? at::matmul(g.transpose(2, 3), a) : at::matmul(a.transpose(2, 3), g);
    return w.flatten(2);
  }

  absl::optional<OuterProducts> AsOuterProducts(const at::Tensor& grads, int64_t begin,
                                                int64_t count) const override {
    if (!out_first_) return absl::nullopt;
    return OuterProducts{input_.narrow(0, begin, count), WithRows(grads)};
  }

  bool AddProducts(const at::Tensor& grads, int64_t begin, int64_t count, const at::Tensor& u,
                   const at::Tensor& t, const at::Tensor& g) const override {
    if (input_.size(1) != 1 || !out_first_) return false;
    AddOuterProducts(input_.narrow(0, begin, count).squeeze(1), WithRows(grads).squeeze(2), u, t,
                     g);
    return true;
  }

  at::Tensor MeanInput() const override { return input_.detach().mean(1); }

 private:
  // [b, C, T, out]
  static at::Tensor WithRows(const at::Tensor& grads) {
    if (grads.dim() == 3) return grads.unsqueeze(2);
    return grads.dim() == 4 ? grads : grads.flatten(2, grads.dim() - 2);
  }

  at::Tensor input_;
  bool out_first_;
};

// The parameter as the right factor of `left` [rows, in], or of [matrices, rows, in].
CapturedUse RightFactorUse(const UseSite& site, const at::Tensor& left) {
  if (site.shape.size() != 2) return {};
  CapturedUse made;
  made.layout = LayoutOf(site.order, 1);
  at::Tensor input = SavedByExample(site, left, made.layout);
  if (!input.defined()) return {};
  input = input.dim() == 2 ? input.unsqueeze(1) : input.flatten(1, input.dim() - 2);
  made.macs = static_cast<double>(input.size(1) * site.shape[0] * site.shape[1]);
  made.use = std::make_shared<LinearWeight>(input, /*out_first=*/site.transposed);
  return made;
}

}  // namespace

CapturedUse AddmmUse(const UseSite& site) {
  auto* node = static_cast<generated::AddmmBackward0*>(site.node.get());
  if (node->alpha.toDouble() != 1 || node->beta.toDouble() != 1) return {};
  if (site.edge == 2) return RightFactorUse(site, node->mat1_.unpack());
  if (site.edge != 0) return {};
  const BatchLayout layout = LayoutOf(site.order, 1);
  const auto shape = ShapeInExample(site.shape, 2, layout);
  if (!shape) return {};
  return {MakeTermUse(*shape), layout, 0};
}

CapturedUse MmUse(const UseSite& site) {
  if (site.edge != 1) return {};
  return RightFactorUse(site,
                        static_cast<generated::MmBackward0*>(site.node.get())->self_.unpack());
}

CapturedUse BmmUse(const UseSite& site) {
  if (site.edge != 1 || !site.repeated) return {};
  return RightFactorUse(site,
                        static_cast<generated::BmmBackward0*>(site.node.get())->self_.unpack());
}

}  // namespace laplaced
