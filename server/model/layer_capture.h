// Per-example parameter gradients from one reverse pass per output, without a hook in the user's
// model.
//
// A forward pass leaves an autograd graph. Walking it finds the nodes that consume parameters:
// convolution, linear layer and batch norm in evaluation keep their input, and the gradient that
// arrives at the node is all that is missing. Asking the engine for gradients *at the node* (an
// edge, not a tensor) is immune to later in-place operations such as relu_ and `+=`, which replace
// a tensor's own history, and computes no batch-summed weight gradients on the way.
//
// A parameter is captured if every use of it is of a known kind; all others are listed as generic
// and take one reverse pass per example and output (see jacobian_products.h): slower, equally
// exact. Which is which is decided per network, once, by FindCapturedParameters, which also
// compares captured with generic gradients on a trial batch and moves every parameter that
// disagrees to the generic side: a layout that the walk misreads costs time, never correctness.
//
// Functions throw LibTorch exceptions; callers wrap them in CatchTorch. Thread-safe: nothing is
// kept between calls.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <vector>

#include "server/model/network.h"

namespace laplaced {

// One use of one parameter by one node of one forward pass.
class ParameterUse {
 public:
  virtual ~ParameterUse() = default;
  // REQUIRES: gradient mode is off (saved inputs carry history). Per-example gradients for examples
  // [begin, begin + count): grads [B, C, ...] at the node's output -> [count, C, numel].
  virtual at::Tensor Jacobian(const at::Tensor& grads, int64_t begin, int64_t count) const = 0;
};

// A forward pass with the uses of all parameters that are wanted and found.
struct CapturedForward {
  at::Tensor outputs;  // f, [B, C], with graph
  struct Node {
    torch::autograd::Edge edge;  // where the engine hands over the gradient
    std::vector<std::pair<size_t, std::shared_ptr<ParameterUse>>> uses;  // (parameter index, use)
  };
  std::vector<Node> nodes;

  // Gradients of every output at every node: for each node [B, C, ...] (undefined where no gradient
  // arrives).
  std::vector<at::Tensor> OutputGradients() const;
};

// For each parameter of the network whether it is captured.
using CaptureMask = std::vector<bool>;

// Runs the network on x and captures the parameters whose mask is set.
CapturedForward ForwardCaptured(const Network& network, const at::Tensor& x,
                                const CaptureMask& mask);

// Decides the mask for a network; see above.
CaptureMask FindCapturedParameters(const Network& network);

// Gradients of every output of a single example, x [1, input_shape...], for the parameters whose
// mask is *not* set, concatenated in parameter order: [C, sum of their numel]. The generic path.
at::Tensor GenericJacobian(const Network& network, const at::Tensor& x, const CaptureMask& mask);

}  // namespace laplaced
