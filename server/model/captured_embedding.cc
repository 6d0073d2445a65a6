// Rows of a table, looked up by index.
#include <torch/csrc/autograd/generated/Functions.h>

#include <utility>

#include "server/model/captured_kinds.h"
#include "server/model/symbolic_int.h"

namespace laplaced {
namespace {

namespace generated = torch::autograd::generated;

class EmbeddingTable : public ParameterUse {
 public:
  // indices [B, L]; `rows` in the table. Rows number `padding` have no gradient.
  EmbeddingTable(at::Tensor indices, int64_t rows, int64_t padding)
      : indices_(std::move(indices)), rows_(rows), padding_(padding) {}

  at::Tensor Jacobian(const at::Tensor& grads, int64_t begin, int64_t count) const override {
    const at::Tensor index = indices_.narrow(0, begin, count);
    const at::Tensor g = Entries(grads, index);  // [b, R, L, E]
    const int64_t r = g.size(1), e = g.size(3);
    // Tables of all examples below each other.
    const at::Tensor row = index + at::arange(count, index.options()).unsqueeze(1) * rows_;
    return at::zeros({count * rows_, r, e}, g.options())
        .index_add_(0, row.flatten(), g.transpose(1, 2).flatten(0, 1))
        .view({count, rows_, r, e})
        .transpose(1, 2)
        .reshape({count, r, rows_ * e});
  }

  // Never more than the rows that are looked up: J U = sum over entries l of g_l U[i_l], and
  // J J' = sum over l, m with i_l = i_m of g_l g_m'.
  bool AddProducts(const at::Tensor& grads, int64_t begin, int64_t count, const at::Tensor& u,
                   const at::Tensor& t, const at::Tensor& g) const override {
    const at::Tensor index = indices_.narrow(0, begin, count);
    const at::Tensor d = Entries(grads, index);  // [b, R, L, E]
    const int64_t l = d.size(2), e = d.size(3), k = u.size(1);
    const at::Tensor same =
        (index.unsqueeze(2) == index.unsqueeze(1)).to(d.scalar_type()).unsqueeze(1);
    g.add_(at::bmm(d.flatten(2), at::matmul(same, d).flatten(2).transpose(1, 2)));
    if (k > 0) {
      const at::Tensor looked_up = u.view({rows_, e, k}).index_select(0, index.flatten());
      t.add_(at::bmm(d.flatten(2), looked_up.view({count, l * e, k})));
    }
    return true;
  }

 private:
  // Gradients of the looked-up rows, [b, R, L, E]
  at::Tensor Entries(const at::Tensor& grads, const at::Tensor& index) const {
    const at::Tensor g =
        grads.reshape({grads.size(0), grads.size(1), index.size(1), grads.size(-1)});
    if (padding_ < 0) return g;
    return g * (index != padding_).to(g.scalar_type()).unsqueeze(1).unsqueeze(3);
  }

  const at::Tensor indices_;
  const int64_t rows_, padding_;
};

}  // namespace

CapturedUse EmbeddingUse(const UseSite& site) {
  auto* node = static_cast<generated::EmbeddingBackward0*>(site.node.get());
  if (site.edge != 0 || node->scale_grad_by_freq || node->sparse) return {};
  const at::Tensor indices = node->indices_.unpack();
  const BatchLayout layout = LayoutOf(site.order, indices.dim());
  const at::Tensor by_example = SavedByExample(site, indices, layout);
  if (!by_example.defined()) return {};
  return {std::make_shared<EmbeddingTable>(by_example.reshape({site.examples, -1}).to(at::kLong),
                                           site.shape[0], PlainInt(node->padding_idx)),
          layout, 0};
}

}  // namespace laplaced
