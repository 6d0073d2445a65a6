// Convolutions over one to three dimensions, plain and transposed.
#include <torch/csrc/autograd/generated/Functions.h>

#include <string>
#include <utility>

#include "server/model/captured_kinds.h"
#include "server/model/convolution_gradients.h"
#include "server/model/convolution_node.h"
#include "server/model/symbolic_int.h"

namespace laplaced {
namespace {

namespace generated = torch::autograd::generated;

struct Geometry {
  std::vector<int64_t> kernel, stride, padding, dilation;
  int64_t groups = 1;

  // Windows along each dimension of an image of these sizes.
  std::vector<int64_t> Windows(at::IntArrayRef spatial) const {
    std::vector<int64_t> windows;
    for (size_t i = 0; i < kernel.size(); ++i) {
      const int64_t span = dilation[i] * (kernel[i] - 1) + 1;
      windows.push_back((spatial[i] + 2 * padding[i] - span) / stride[i] + 1);
    }
    return windows;
  }
};

// What every window of images [n, channels, spatial...] sees: [n, channels * kernel, windows].
at::Tensor Columns(const at::Tensor& images, const Geometry& g) {
  if (g.kernel.size() == 1) {
    return at::im2col(images.unsqueeze(2), {1, g.kernel[0]}, {1, g.dilation[0]}, {0, g.padding[0]},
                      {1, g.stride[0]});
  }
  if (g.kernel.size() == 2) return at::im2col(images, g.kernel, g.dilation, g.padding, g.stride);
  std::vector<int64_t> pad;
  for (size_t i = g.kernel.size(); i-- > 0;) pad.insert(pad.end(), 2, g.padding[i]);
  const at::Tensor padded = at::constant_pad_nd(images, pad).contiguous();
  std::vector<int64_t> sizes = {padded.size(0), padded.size(1)};
  std::vector<int64_t> strides = {padded.stride(0), padded.stride(1)};
  const std::vector<int64_t> windows = g.Windows(images.sizes().slice(2));
  sizes.insert(sizes.end(), g.kernel.begin(), g.kernel.end());
  sizes.insert(sizes.end(), windows.begin(), windows.end());
  for (size_t i = 0; i < g.kernel.size(); ++i) {
    strides.push_back(padded.stride(static_cast<int64_t>(i) + 2) * g.dilation[i]);
  }
  for (size_t i = 0; i < g.kernel.size(); ++i) {
    strides.push_back(padded.stride(static_cast<int64_t>(i) + 2) * g.stride[i]);
  }
  return padded.as_strided(sizes, strides)
      .reshape({padded.size(0), padded.size(1) * c10::multiply_integers(g.kernel),
                c10::multiply_integers(windows)});
}

// sum over positions of left x right' within each group: left [b, C, groups * m, L], right
// [b, 1 or C, groups * n, L] -> [b, C, groups * m * n].
at::Tensor GroupedProducts(const at::Tensor& left, const at::Tensor& right, int64_t groups) {
  const int64_t b = left.size(0), c = left.size(1), m = left.size(2) / groups;
  const int64_t n = right.size(2) / groups, positions = left.size(3);
  if (right.size(1) == 1) {  // all C rows in one product
    const at::Tensor stacked =
        left.reshape({b, c, groups, m, positions}).transpose(1, 2).reshape({b * groups, c * m, -1});
    const at::Tensor other = right.reshape({b * groups, n, positions});
    return at::bmm(stacked, other.transpose(1, 2))
        .view({b, groups, c, m * n})
        .transpose(1, 2)
        .reshape({b, c, groups * m * n});
  }
  return at::bmm(left.reshape({b * c * groups, m, positions}),
                 right.reshape({b * c * groups, n, positions}).transpose(1, 2))
      .view({b, c, groups * m * n});
}

class ConvolutionWeight : public ParameterUse {
 public:
  // input [B, T, in, spatial...] with T images per example
  ConvolutionWeight(at::Tensor input, Geometry geometry)
      : input_(std::move(input)), geometry_(std::move(geometry)) {}

  at::Tensor Jacobian(const at::Tensor& grads, int64_t begin, int64_t count) const override {
    return GroupedProducts(Positions(grads), InputColumns(begin, count).unsqueeze(1),
                           geometry_.groups);
  }

  absl::optional<OuterProducts> AsOuterProducts(const at::Tensor& grads, int64_t begin,
                                                int64_t count) const override {
    if (geometry_.groups != 1) return absl::nullopt;
    return OuterProducts{InputColumns(begin, count).transpose(1, 2),
                         Positions(grads).transpose(2, 3)};
  }

  at::Tensor MeanInput() const override { return input_.detach().flatten(3).mean({1, 3}); }

 private:
  // [b, in * kernel, T * windows]
  at::Tensor InputColumns(int64_t begin, int64_t count) const {
    const at::Tensor columns = Columns(input_.narrow(0, begin, count).flatten(0, 1), geometry_);
    if (input_.size(1) == 1) return columns;
    return columns.view({count, input_.size(1), columns.size(1), columns.size(2)})
        .transpose(1, 2)
        .flatten(2);
  }

  // [b, C, T?, out, spatial...] -> [b, C, out, T * windows]
  at::Tensor Positions(const at::Tensor& grads) const {
    const at::Tensor flat = grads.flatten(-static_cast<int64_t>(geometry_.kernel.size()));
    return flat.dim() == 4 ? flat : flat.transpose(2, 3).flatten(3);
  }

  const at::Tensor input_;
  const Geometry geometry_;
};

// One image per example over one or two dimensions: out of cache-sized tiles.
class TiledConvolutionWeight : public ParameterUse {
 public:
  // input [B, in, spatial...]
  TiledConvolutionWeight(at::Tensor input, const ConvolutionShape& shape)
      : input_(std::move(input)), shape_(shape) {}

  at::Tensor Jacobian(const at::Tensor& grads, int64_t begin, int64_t count) const override {
    return ConvolutionWeightJacobian(shape_, Patches(begin, count), grads);
  }

  bool AddProducts(const at::Tensor& grads, int64_t begin, int64_t count, const at::Tensor& u,
                   const at::Tensor& t, const at::Tensor& g) const override {
    AddConvolutionProducts(shape_, Patches(begin, count), grads, u, t, g);
    return true;
  }

  absl::optional<OuterProducts> AsOuterProducts(const at::Tensor& grads, int64_t begin,
                                                int64_t count) const override {
    if (shape_.groups != 1) return absl::nullopt;
    at::Tensor images = input_.narrow(0, begin, count);
    if (images.dim() == 3) images = images.unsqueeze(2);
    const at::Tensor columns =
        at::im2col(images, shape_.kernel, shape_.dilation, shape_.padding, shape_.stride);
    return OuterProducts{columns.transpose(1, 2), grads.flatten(3).transpose(2, 3)};
  }

  at::Tensor MeanInput() const override { return input_.detach().flatten(2).mean(2); }

 private:
  at::Tensor Patches(int64_t begin, int64_t count) const {
    return ConvolutionPatches(shape_, input_.narrow(0, begin, count));
  }

  const at::Tensor input_;
  const ConvolutionShape shape_;
};

// The adjoint of a convolution: input and output change places.
class TransposedConvolutionWeight : public ParameterUse {
 public:
  // input [B, in, spatial...]
  TransposedConvolutionWeight(at::Tensor input, Geometry geometry)
      : input_(std::move(input)), geometry_(std::move(geometry)) {}

  at::Tensor Jacobian(const at::Tensor& grads, int64_t begin, int64_t count) const override {
    const int64_t c = grads.size(1);
    const at::Tensor columns = Columns(grads.flatten(0, 1), geometry_);
    const at::Tensor a = input_.narrow(0, begin, count).flatten(2).unsqueeze(1);
    return GroupedProducts(a.expand({count, c, a.size(2), a.size(3)}),
                           columns.view({count, c, columns.size(1), columns.size(2)}),
                           geometry_.groups);
  }

  at::Tensor MeanInput() const override { return input_.detach().flatten(2).mean(2); }

 private:
  const at::Tensor input_;
  const Geometry geometry_;
};

// One number for each of `dims` dimensions; a single one is for all.
std::vector<int64_t> ForEach(const std::vector<int64_t>& values, int64_t dims) {
  return values.size() == 1 ? std::vector<int64_t>(static_cast<size_t>(dims), values[0]) : values;
}

template <typename ConvolutionNode>
CapturedUse UseIn(const UseSite& site) {
  auto* node = static_cast<ConvolutionNode*>(site.node.get());
  const at::Tensor input = node->input_.unpack(), weight = node->weight_.unpack();
  const int64_t dims = weight.dim() - 2;
  CapturedUse made;
  made.layout = LayoutOf(site.order, 1);
  if (input.dim() != weight.dim() || dims < 1 || dims > 3 ||
      !HoldsExamples(input.sizes(), site.examples, made.layout))
    return {};
  if (site.edge == 2) {
    made.use = MakeTermUse(ChannelShape(site.shape[0], input.dim()));
    return made;
  }
  if (site.edge != 1) return {};
  Geometry geometry{weight.sizes().slice(2).vec(), ForEach(PlainInts(node->stride), dims),
                    ForEach(PlainInts(node->padding), dims),
                    ForEach(PlainInts(node->dilation), dims), PlainInt(node->groups)};
  at::Tensor by_example = SavedByExample(site, input, made.layout);
  const at::IntArrayRef spatial = input.sizes().slice(2);
  const int64_t images = input.size(0) / site.examples;
  if (node->transposed) {
    const std::vector<int64_t> output_padding = ForEach(PlainInts(node->output_padding), dims);
    for (size_t i = 0; i < geometry.kernel.size(); ++i) {
      // Larger ones make room for windows that see no input.
      if (output_padding[i] >= geometry.stride[i]) return {};
    }
    if (images != 1) return {};
    made.macs = static_cast<double>(c10::multiply_integers(spatial) * weight.numel());
    made.use = std::make_shared<TransposedConvolutionWeight>(by_example, std::move(geometry));
    return made;
  }
  const int64_t windows = c10::multiply_integers(geometry.Windows(spatial));
  made.macs = static_cast<double>(images * windows * weight.numel());
  if (images == 1) {
    if (const auto convolution = AsConvolution(*node)) {
      made.use = std::make_shared<TiledConvolutionWeight>(by_example, convolution->shape);
      return made;
    }
    by_example = by_example.unsqueeze(1);
  }
  made.use = std::make_shared<ConvolutionWeight>(by_example, std::move(geometry));
  return made;
}

}  // namespace

CapturedUse ConvolutionUse(const UseSite& site) {
  return site.node->name() == "ConvolutionBackward0" ? UseIn<generated::ConvolutionBackward0>(site)
                                                     : UseIn<generated::ConvolutionBackward1>(site);
}

}  // namespace laplaced
