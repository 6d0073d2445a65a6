#include "server/model/captured_layers.h"

#include <torch/csrc/autograd/generated/Functions.h>

#include <string>
#include <utility>

namespace laplaced {
namespace {

using torch::autograd::Node;
namespace generated = torch::autograd::generated;

// Bias of a layer whose channel dimension is the first after the batch: sum of g over all
// positions.
class ChannelBias : public ParameterUse {
 public:
  at::Tensor Jacobian(const at::Tensor& grads, int64_t, int64_t) const override {
    return grads.dim() == 3 ? grads : grads.flatten(3).sum(3);
  }
};

// The first copy of every example: [examples * copies * rows, rest...] -> [examples, rows,
// rest...].
at::Tensor FirstCopies(const at::Tensor& input, const BatchLayout& layout) {
  std::vector<int64_t> shape = input.sizes().vec();
  shape[0] /= layout.examples * layout.copies;
  shape.insert(shape.begin(), {layout.examples, layout.copies});
  return input.reshape(shape).select(1, 0);
}

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

  // With one row per example the gradient is an outer product, g a': J U = sum over outputs o of
  // g_o (a' U_o), which costs C times less than going through J, and J J' = (g g')(a' a).
  bool AddProducts(const at::Tensor& grads, int64_t begin, int64_t count, const at::Tensor& u,
                   const at::Tensor& t, const at::Tensor& g) const override {
    if (input_.size(1) != 1 || !out_first_) return false;
    const at::Tensor a = input_.narrow(0, begin, count).squeeze(1);  // [b, in]
    const at::Tensor& d = grads;                                     // [b, C, out]
    const at::Tensor squares = a.square().sum(1).view({count, 1, 1});
    g.add_(at::bmm(d, d.transpose(1, 2)) * squares);
    if (u.size(1) > 0) {
      const int64_t out = d.size(2), in = a.size(1);
      const at::Tensor per_output = at::bmm(a.unsqueeze(0).expand({out, count, in}),
                                            u.view({out, in, u.size(1)}));  // [out, b, K]
      t.add_(at::bmm(d, per_output.transpose(0, 1)));
    }
    return true;
  }

 private:
  // [b, C, T, out]
  static at::Tensor WithRows(const at::Tensor& grads) {
    return grads.dim() == 3 ? grads.unsqueeze(2) : grads;
  }

  at::Tensor input_;
  bool out_first_;
};

class LinearBias : public ParameterUse {
 public:
  at::Tensor Jacobian(const at::Tensor& grads, int64_t, int64_t) const override {
    return grads.dim() == 3 ? grads : grads.sum(2);
  }
};

class ConvolutionWeight : public ParameterUse {
 public:
  // `node` is either of autograd's two convolution nodes (the second comes from traced modules).
  // One-dimensional convolutions get an extra dimension of size one.
  template <typename ConvolutionNode>
  ConvolutionWeight(at::Tensor input, const at::Tensor& weight, const ConvolutionNode& node)
      : input_(std::move(input)),
        kernel_(weight.sizes().slice(2).vec()),
        stride_(node.stride),
        padding_(node.padding),
        dilation_(node.dilation),
        groups_(node.groups) {
    if (input_.dim() == 3) {
      input_ = input_.unsqueeze(2);
      kernel_.insert(kernel_.begin(), 1);
      stride_.insert(stride_.begin(), 1);
      padding_.insert(padding_.begin(), 0);
      dilation_.insert(dilation_.begin(), 1);
    }
  }

  absl::optional<OuterProducts> AsOuterProducts(const at::Tensor& grads, int64_t begin,
                                                int64_t count) const override {
    if (groups_ != 1) return absl::nullopt;
    return OuterProducts{Columns(begin, count).transpose(1, 2), grads.flatten(3).transpose(2, 3)};
  }

  at::Tensor Jacobian(const at::Tensor& grads, int64_t begin, int64_t count) const override {
    const at::Tensor columns = Columns(begin, count);
    const at::Tensor g = grads.flatten(3);  // [b, C, out, L]
    const int64_t c = g.size(1), out = g.size(2), positions = g.size(3), rows = columns.size(1);
    if (groups_ == 1) {
      return at::bmm(g.reshape({count, c * out, positions}), columns.transpose(1, 2))
          .reshape({count, c, out * rows});
    }
    const at::Tensor grouped_g =
        g.reshape({count, c, groups_, out / groups_, positions}).transpose(1, 2);
    const at::Tensor per_group =
        at::bmm(grouped_g.reshape({count * groups_, c * (out / groups_), positions}),
                columns.reshape({count * groups_, rows / groups_, positions}).transpose(1, 2));
    return per_group.reshape({count, groups_, c, (out / groups_) * (rows / groups_)})
        .transpose(1, 2)
        .reshape({count, c, out * (rows / groups_)});
  }

 private:
  // [b, in * k, L]
  at::Tensor Columns(int64_t begin, int64_t count) const {
    return at::im2col(input_.narrow(0, begin, count), kernel_, dilation_, padding_, stride_);
  }

  at::Tensor input_;
  std::vector<int64_t> kernel_, stride_, padding_, dilation_;
  int64_t groups_;
};

class BatchNormScale : public ParameterUse {
 public:
  explicit BatchNormScale(at::Tensor normalised) : normalised_(std::move(normalised)) {}
  at::Tensor Jacobian(const at::Tensor& grads, int64_t begin, int64_t count) const override {
    const at::Tensor scaled = grads * normalised_.narrow(0, begin, count).unsqueeze(1);
    return scaled.dim() == 3 ? scaled : scaled.flatten(3).sum(3);
  }

 private:
  at::Tensor normalised_;  // (a - mean) / sqrt(var + eps), [B, channels, ...]
};

bool RowsDivide(const at::Tensor& input, const BatchLayout& layout) {
  return input.defined() && input.dim() == 2 &&
         input.size(0) % (layout.examples * layout.copies) == 0;
}

bool OneRowPerExample(const at::Tensor& input, const BatchLayout& layout) {
  return input.defined() && input.size(0) == layout.examples * layout.copies;
}

// Matrix product mat1 * mat2 with the parameter as mat2; rows of mat1 must divide evenly among the
// examples.
std::shared_ptr<ParameterUse> LinearUse(const at::Tensor& mat1, bool transposed,
                                        const BatchLayout& layout) {
  if (!RowsDivide(mat1, layout)) return nullptr;
  return std::make_shared<LinearWeight>(FirstCopies(mat1, layout), /*out_first=*/transposed);
}

std::shared_ptr<ParameterUse> AddmmUse(const std::shared_ptr<Node>& base, uint32_t edge,
                                       bool transposed, const BatchLayout& layout,
                                       const at::Tensor& parameter) {
  auto* node = static_cast<generated::AddmmBackward0*>(base.get());
  if (node->alpha.toDouble() != 1 || node->beta.toDouble() != 1) return nullptr;
  if (edge == 0 && !transposed && parameter.dim() == 1) return std::make_shared<LinearBias>();
  if (edge == 2) return LinearUse(node->mat1_.unpack(), transposed, layout);
  return nullptr;
}

template <typename ConvolutionNode>
std::shared_ptr<ParameterUse> ConvolutionUse(const std::shared_ptr<Node>& base, uint32_t edge,
                                             const BatchLayout& layout) {
  auto* node = static_cast<ConvolutionNode*>(base.get());
  const at::Tensor input = node->input_.unpack();
  if (node->transposed || !OneRowPerExample(input, layout) ||
      (input.dim() != 3 && input.dim() != 4))
    return nullptr;
  if (edge == 1) {
    return std::make_shared<ConvolutionWeight>(FirstCopies(input, layout).squeeze(1),
                                               node->weight_.unpack(), *node);
  }
  if (edge == 2) return std::make_shared<ChannelBias>();
  return nullptr;
}

std::shared_ptr<ParameterUse> BatchNormUse(const std::shared_ptr<Node>& base, uint32_t edge,
                                           const BatchLayout& layout) {
  auto* node = static_cast<generated::NativeBatchNormBackward0*>(base.get());
  at::Tensor input = node->input_.unpack();
  if (node->training || !OneRowPerExample(input, layout)) return nullptr;
  if (edge == 2) return std::make_shared<ChannelBias>();
  if (edge != 1) return nullptr;
  at::NoGradGuard no_grad;
  input = FirstCopies(input, layout).squeeze(1);
  std::vector<int64_t> per_channel(input.dim(), 1);
  per_channel[1] = input.size(1);
  const at::Tensor mean = node->running_mean_.unpack(), variance = node->running_var_.unpack();
  if (!mean.defined() || !variance.defined()) return nullptr;
  return std::make_shared<BatchNormScale>((input - mean.view(per_channel)) *
                                          (variance + node->eps).rsqrt().view(per_channel));
}

}  // namespace

std::shared_ptr<ParameterUse> MakeParameterUse(const std::shared_ptr<Node>& node, uint32_t edge,
                                               bool transposed, const BatchLayout& layout,
                                               const at::Tensor& parameter) {
  const std::string kind = node->name();
  if (kind == "AddmmBackward0") return AddmmUse(node, edge, transposed, layout, parameter);
  if (kind == "MmBackward0" && edge == 1) {
    return LinearUse(static_cast<generated::MmBackward0*>(node.get())->self_.unpack(), transposed,
                     layout);
  }
  if (transposed) return nullptr;
  if (kind == "ConvolutionBackward0") {
    return ConvolutionUse<generated::ConvolutionBackward0>(node, edge, layout);
  }
  if (kind == "ConvolutionBackward1") {
    return ConvolutionUse<generated::ConvolutionBackward1>(node, edge, layout);
  }
  if (kind == "NativeBatchNormBackward0") return BatchNormUse(node, edge, layout);
  return nullptr;
}

}  // namespace laplaced
