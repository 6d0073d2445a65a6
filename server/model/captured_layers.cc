#include "server/model/captured_layers.h"

#include <torch/csrc/autograd/generated/Functions.h>

#include <string>
#include <utility>

#include "server/model/channel_gradients.h"
#include "server/model/convolution_node.h"
#include "server/model/jacobian_sums.h"

namespace laplaced {
namespace {

using torch::autograd::Node;
namespace generated = torch::autograd::generated;

// Bias of a layer whose channel dimension is the first after the batch: sum of g over all
// positions.
class ChannelBias : public ParameterUse {
 public:
  at::Tensor Jacobian(const at::Tensor& grads, int64_t, int64_t) const override {
    return SumOverPlaces(grads);
  }
};

// [examples * rows, rest...] -> [examples, rows, rest...].
at::Tensor ByExample(const at::Tensor& input, const BatchLayout& layout) {
  std::vector<int64_t> shape = input.sizes().vec();
  shape[0] /= layout.examples;
  shape.insert(shape.begin(), layout.examples);
  return input.reshape(shape);
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

  bool AddProducts(const at::Tensor& grads, int64_t begin, int64_t count, const at::Tensor& u,
                   const at::Tensor& t, const at::Tensor& g) const override {
    if (input_.size(1) != 1 || !out_first_) return false;
    AddOuterProducts(input_.narrow(0, begin, count).squeeze(1), grads, u, t, g);
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
  explicit ConvolutionWeight(const ConvolutionNode& node)
      : shape_(node.shape), input_(node.input) {}

  absl::optional<OuterProducts> AsOuterProducts(const at::Tensor& grads, int64_t begin,
                                                int64_t count) const override {
    if (shape_.groups != 1) return absl::nullopt;
    at::Tensor images = input_.narrow(0, begin, count);
    if (images.dim() == 3) images = images.unsqueeze(2);
    const at::Tensor columns =
        at::im2col(images, shape_.kernel, shape_.dilation, shape_.padding, shape_.stride);
    return OuterProducts{columns.transpose(1, 2), grads.flatten(3).transpose(2, 3)};
  }

  at::Tensor Jacobian(const at::Tensor& grads, int64_t begin, int64_t count) const override {
    return ConvolutionWeightJacobian(
        shape_, ConvolutionPatches(shape_, input_.narrow(0, begin, count)), grads);
  }

  bool AddProducts(const at::Tensor& grads, int64_t begin, int64_t count, const at::Tensor& u,
                   const at::Tensor& t, const at::Tensor& g) const override {
    const at::Tensor patches = ConvolutionPatches(shape_, input_.narrow(0, begin, count));
    AddConvolutionProducts(shape_, patches, grads, u, t, g);
    return true;
  }

 private:
  ConvolutionShape shape_;
  at::Tensor input_;
};

class BatchNormScale : public ParameterUse {
 public:
  explicit BatchNormScale(at::Tensor normalised) : normalised_(std::move(normalised)) {}
  at::Tensor Jacobian(const at::Tensor& grads, int64_t begin, int64_t count) const override {
    return SumOverPlaces(grads, normalised_.narrow(0, begin, count));
  }

 private:
  at::Tensor normalised_;  // (a - mean) / sqrt(var + eps), [B, channels, ...]
};

bool RowsDivide(const at::Tensor& input, const BatchLayout& layout) {
  return input.defined() && input.dim() == 2 && input.size(0) % layout.examples == 0;
}

bool OneRowPerExample(const at::Tensor& input, const BatchLayout& layout) {
  return input.defined() && input.size(0) == layout.examples;
}

// Matrix product mat1 * mat2 with the parameter as mat2; rows of mat1 must divide evenly among the
// examples.
std::shared_ptr<ParameterUse> LinearUse(const at::Tensor& mat1, bool transposed,
                                        const BatchLayout& layout) {
  if (!RowsDivide(mat1, layout)) return nullptr;
  return std::make_shared<LinearWeight>(ByExample(mat1, layout), /*out_first=*/transposed);
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

std::shared_ptr<ParameterUse> ConvolutionUse(const ConvolutionNode& node, uint32_t edge,
                                             const BatchLayout& layout) {
  if (!OneRowPerExample(node.input, layout)) return nullptr;
  if (edge == 1) return std::make_shared<ConvolutionWeight>(node);
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
  if (const auto convolution = AsConvolution(*node)) {
    return ConvolutionUse(*convolution, edge, layout);
  }
  if (kind == "NativeBatchNormBackward0") return BatchNormUse(node, edge, layout);
  return nullptr;
}

}  // namespace laplaced
