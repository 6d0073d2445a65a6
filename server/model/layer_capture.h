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

#include "absl/types/optional.h"
#include "server/model/network.h"
#include "server/model/node_gradients.h"

namespace laplaced {

// The weight gradient of a layer as a sum of outer products over its T positions (rows of a linear
// layer, places of a convolution): dW[o, i] = sum over t of gradients[t, o] * inputs[t, i].
struct OuterProducts {
  at::Tensor inputs;     // [count, T, in]
  at::Tensor gradients;  // [count, R, T, out]
};

// One use of one parameter by one node of one forward pass.
class ParameterUse {
 public:
  virtual ~ParameterUse() = default;

  // REQUIRES for all: gradient mode is off (saved inputs carry history). `grads` [count, R, ...]
  // are the gradients at the node's output of examples [begin, begin + count), one for each of the
  // R seeds of the reverse pass.

  // Per-example gradients, [count, R, numel].
  virtual at::Tensor Jacobian(const at::Tensor& grads, int64_t begin, int64_t count) const = 0;

  // Adds J U to t [count, R, K] and J J' to g [count, R, R] without forming J, for the parameter's
  // rows u [numel, K] of the directions. False, with nothing added, if this kind of layer has no
  // such closed form.
  virtual bool AddProducts(const at::Tensor& /*grads*/, int64_t /*begin*/, int64_t /*count*/,
                           const at::Tensor& /*u*/, const at::Tensor& /*t*/,
                           const at::Tensor& /*g*/) const {
    return false;
  }

  // Nothing if this kind of layer has no such form. The flattened weight is [out, in].
  virtual absl::optional<OuterProducts> AsOuterProducts(const at::Tensor& /*grads*/,
                                                        int64_t /*begin*/,
                                                        int64_t /*count*/) const {
    return absl::nullopt;
  }
};

// What was decided for a network once.
struct CapturePlan {
  std::vector<bool> captured;  // for each parameter
  int64_t gradient_numel =
      0;  // elements that one example's gradient has at all captured nodes together
};

// A forward pass with the uses of all parameters that are wanted and found.
struct CapturedForward {
  at::Tensor outputs;  // f, [B * copies, C], with graph; the copies of an example stand together
  int64_t batch = 0;   // B
  int64_t copies = 1;  // how often every example went through the network
  // For each parameter: the plan's, less those that this pass used otherwise (control flow that
  // depends on data).
  std::vector<bool> captured;
  struct Node {
    torch::autograd::Edge edge;  // where the engine hands over the gradient
    std::vector<std::pair<size_t, std::shared_ptr<ParameterUse>>> uses;  // (parameter index, use)
  };
  std::vector<Node> nodes;

  // f, [B, C], without graph.
  at::Tensor Outputs() const;
  // For each node the gradients of the R combinations of outputs that `seeds` [B, C, R] asks for,
  // per example; of the C outputs themselves if it is undefined. One reverse pass per combination,
  // or one in all if there are R copies of every example. REQUIRES: copies is 1 or R.
  std::vector<NodeGradients> OutputGradients(const at::Tensor& seeds = {}) const;
};

// Runs the network on x and captures the parameters that the plan says. With as many copies of
// every example as there are reverse passes to come, one pass does for all: faster for a few
// examples, where the cost of starting operations counts more than their work.
CapturedForward ForwardCaptured(const Network& network, const at::Tensor& x,
                                const CapturePlan& plan, int64_t copies = 1);

// Decides the plan for a network; see above.
CapturePlan FindCapturedParameters(const Network& network);

// Gradients of a single example, x [1, input_shape...], for the parameters that are *not* captured,
// concatenated in parameter order: [R, sum of their numel], of the combinations of outputs that
// `seeds` [C, R] asks for, or [C, ...] of the outputs if it is undefined. The generic path.
at::Tensor GenericJacobian(const Network& network, const at::Tensor& x,
                           const std::vector<bool>& captured, const at::Tensor& seeds = {});

}  // namespace laplaced
