#include "server/model/convolution_node.h"

#include <torch/csrc/autograd/generated/Functions.h>

#include <string>

#include "server/model/symbolic_int.h"

namespace laplaced {
namespace {

template <typename Convolution>
absl::optional<ConvolutionNode> FromNode(Convolution& node) {
  if (node.transposed) return absl::nullopt;
  ConvolutionNode result;
  result.input = node.input_.unpack();
  result.weight = node.weight_.unpack();
  if (!result.input.defined() || !result.weight.defined()) return absl::nullopt;
  const int64_t dimensions = result.input.dim() - 2;
  if (dimensions < 1 || dimensions > 2) return absl::nullopt;
  ConvolutionShape& s = result.shape;
  s.in = result.input.size(1);
  s.out = result.weight.size(0);
  s.groups = PlainInt(node.groups);
  for (int64_t i = 0; i < dimensions; ++i) {
    const int64_t d = 2 - dimensions + i;
    s.kernel[d] = result.weight.size(2 + i);
    s.stride[d] = PlainInt(node.stride[i]);
    s.padding[d] = PlainInt(node.padding[i]);
    s.dilation[d] = PlainInt(node.dilation[i]);
    s.input[d] = result.input.size(2 + i);
    s.output[d] =
        (s.input[d] + 2 * s.padding[d] - s.dilation[d] * (s.kernel[d] - 1) - 1) / s.stride[d] + 1;
  }
  return result;
}

}  // namespace

absl::optional<ConvolutionNode> AsConvolution(torch::autograd::Node& node) {
  // The second comes from traced modules.
  const std::string kind = node.name();
  namespace generated = torch::autograd::generated;
  if (kind == "ConvolutionBackward0") {
    return FromNode(static_cast<generated::ConvolutionBackward0&>(node));
  }
  if (kind == "ConvolutionBackward1") {
    return FromNode(static_cast<generated::ConvolutionBackward1&>(node));
  }
  return absl::nullopt;
}

}  // namespace laplaced
