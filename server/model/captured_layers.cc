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
  at::Tensor Jacobian(const at::Tensor& grads, int64_t begin, int64_t count) const override {
    const at::Tensor g = grads.narrow(0, begin, count);
    return g.dim() == 3 ? g : g.flatten(3).sum(3);
  }
};

// A matrix product a W (or a W' when the parameter is stored [out, in]) with a of shape [batch *
// rows_per_example, in].
class LinearWeight : public ParameterUse {
 public:
  LinearWeight(const at::Tensor& input, int64_t batch, bool out_first)
      : input_(input.reshape({batch, input.size(0) / batch, input.size(1)})),
        out_first_(out_first) {}

  at::Tensor Jacobian(const at::Tensor& grads, int64_t begin, int64_t count) const override {
    const at::Tensor a = input_.narrow(0, begin, count).unsqueeze(1);  // [b, 1, T, in]
    const at::Tensor g = PerExample(grads, input_.size(0)).narrow(0, begin, count);
    const at::Tensor w =
        out_first_ ? at::matmul(g.transpose(2, 3), a) : at::matmul(a.transpose(2, 3), g);
    return w.flatten(2);
  }

  // [batch * T, C, out] as the engine's stacked gradient -> [batch, C, T, out]. Stacking put C
  // second.
  static at::Tensor PerExample(const at::Tensor& grads, int64_t batch) {
    return grads.reshape({batch, grads.size(0) / batch, grads.size(1), grads.size(2)})
        .transpose(1, 2);
  }

 private:
  at::Tensor input_;  // [B, T, in]
  bool out_first_;
};

class LinearBias : public ParameterUse {
 public:
  explicit LinearBias(int64_t batch) : batch_(batch) {}
  at::Tensor Jacobian(const at::Tensor& grads, int64_t begin, int64_t count) const override {
    return LinearWeight::PerExample(grads, batch_).narrow(0, begin, count).sum(2);
  }

 private:
  int64_t batch_;
};

class ConvolutionWeight : public ParameterUse {
 public:
  // One-dimensional convolutions come with an extra dimension of size one.
  ConvolutionWeight(at::Tensor input, const at::Tensor& weight,
                    const generated::ConvolutionBackward0& node)
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

  at::Tensor Jacobian(const at::Tensor& grads, int64_t begin, int64_t count) const override {
    const at::Tensor a = input_.narrow(0, begin, count);
    const at::Tensor columns =
        at::im2col(a, kernel_, dilation_, padding_, stride_);       // [b, in * k, L]
    const at::Tensor g = grads.narrow(0, begin, count).flatten(3);  // [b, C, out, L]
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
  at::Tensor input_;
  std::vector<int64_t> kernel_, stride_, padding_, dilation_;
  int64_t groups_;
};

class BatchNormScale : public ParameterUse {
 public:
  explicit BatchNormScale(at::Tensor normalised) : normalised_(std::move(normalised)) {}
  at::Tensor Jacobian(const at::Tensor& grads, int64_t begin, int64_t count) const override {
    const at::Tensor scaled =
        grads.narrow(0, begin, count) * normalised_.narrow(0, begin, count).unsqueeze(1);
    return scaled.dim() == 3 ? scaled : scaled.flatten(3).sum(3);
  }

 private:
  at::Tensor normalised_;  // (a - mean) / sqrt(var + eps), [B, channels, ...]
};

// Matrix product mat1 * mat2 with the parameter as mat2; rows of mat1 must divide evenly among the
// examples.
std::shared_ptr<ParameterUse> LinearUse(const at::Tensor& mat1, bool transposed, int64_t batch) {
  if (!mat1.defined() || mat1.dim() != 2 || mat1.size(0) % batch != 0) return nullptr;
  return std::make_shared<LinearWeight>(mat1, batch, /*out_first=*/transposed);
}

std::shared_ptr<ParameterUse> AddmmUse(const std::shared_ptr<Node>& base, uint32_t edge,
                                       bool transposed, int64_t batch,
                                       const at::Tensor& parameter) {
  auto* node = static_cast<generated::AddmmBackward0*>(base.get());
  if (node->alpha.toDouble() != 1 || node->beta.toDouble() != 1) return nullptr;
  if (edge == 0 && !transposed && parameter.dim() == 1) return std::make_shared<LinearBias>(batch);
  if (edge == 2) return LinearUse(node->mat1_.unpack(), transposed, batch);
  return nullptr;
}

std::shared_ptr<ParameterUse> ConvolutionUse(const std::shared_ptr<Node>& base, uint32_t edge,
                                             int64_t batch) {
  auto* node = static_cast<generated::ConvolutionBackward0*>(base.get());
  const at::Tensor input = node->input_.unpack();
  if (node->transposed || input.size(0) != batch || (input.dim() != 3 && input.dim() != 4))
    return nullptr;
  if (edge == 1) return std::make_shared<ConvolutionWeight>(input, node->weight_.unpack(), *node);
  if (edge == 2) return std::make_shared<ChannelBias>();
  return nullptr;
}

std::shared_ptr<ParameterUse> BatchNormUse(const std::shared_ptr<Node>& base, uint32_t edge,
                                           int64_t batch) {
  auto* node = static_cast<generated::NativeBatchNormBackward0*>(base.get());
  const at::Tensor input = node->input_.unpack();
  if (node->training || input.size(0) != batch) return nullptr;
  if (edge == 2) return std::make_shared<ChannelBias>();
  if (edge != 1) return nullptr;
  std::vector<int64_t> per_channel(input.dim(), 1);
  per_channel[1] = input.size(1);
  const at::Tensor mean = node->running_mean_.unpack(), variance = node->running_var_.unpack();
  if (!mean.defined() || !variance.defined()) return nullptr;
  at::NoGradGuard no_grad;
  return std::make_shared<BatchNormScale>((input - mean.view(per_channel)) *
                                          (variance + node->eps).rsqrt().view(per_channel));
}

}  // namespace

std::shared_ptr<ParameterUse> MakeParameterUse(const std::shared_ptr<Node>& node, uint32_t edge,
                                               bool transposed, int64_t batch,
                                               const at::Tensor& parameter) {
  const std::string kind = node->name();
  if (kind == "AddmmBackward0") return AddmmUse(node, edge, transposed, batch, parameter);
  if (kind == "MmBackward0" && edge == 1) {
    return LinearUse(static_cast<generated::MmBackward0*>(node.get())->self_.unpack(), transposed,
                     batch);
  }
  if (transposed) return nullptr;
  if (kind == "ConvolutionBackward0") return ConvolutionUse(node, edge, batch);
  if (kind == "NativeBatchNormBackward0") return BatchNormUse(node, edge, batch);
  return nullptr;
}

}  // namespace laplaced
