// A convolution in LibTorch's graph, seen as sizes and tensors.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/function.h>

#include "absl/types/optional.h"
#include "server/model/convolution_gradients.h"

namespace laplaced {

struct ConvolutionNode {
  ConvolutionShape shape;
  at::Tensor input;   // [b, in, (height,) width], with history
  at::Tensor weight;  // [out, in / groups, (height,) width], with history
};

// Nothing if the node is no convolution over one or two dimensions, or a transposed one.
absl::optional<ConvolutionNode> AsConvolution(torch::autograd::Node& node);

}  // namespace laplaced
