// Reverse-mode differentiation of one forward pass for many seeds at once.
//
// LibTorch's engine takes one seed per pass. This sweep walks the same graph once, with the
// gradients of R seeds next to each other, so that each operation is started once and the gradients
// of a few examples stay in cache. Operations that most networks spend their time in (convolution,
// linear layer, ReLU, addition, batch norm in evaluation) have kernels of their own here, which
// compute no gradients of parameters on the way; every other one is the graph's own node, called
// once per seed: always right, sometimes slower. Gradients are taken at the node that made a value,
// so that in-place operations do no harm.
//
// Throws LibTorch exceptions. Different graphs may be swept at the same time.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/function.h>

#include <functional>
#include <vector>

namespace laplaced {

// Gradients of R seeds at the output of wanted[index], [R, shape of that output...]. Not called for
// a node that no gradient reaches. Gradient mode is off.
using NodeVisitor = std::function<void(size_t index, const at::Tensor& grads)>;

// `outputs` [n, C] with graph; `seeds` [R, n, C]. The graph stays as it is and may be swept again.
// Operations that do not lead to a wanted node are left out. Only gradients that are still needed
// are kept: about two or three times R times the largest one.
void ReverseSweep(const at::Tensor& outputs, const at::Tensor& seeds,
                  const std::vector<const torch::autograd::Node*>& wanted,
                  const NodeVisitor& visit);

}  // namespace laplaced
