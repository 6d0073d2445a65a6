// Per-example parameter gradients from one reverse sweep for all outputs, without a hook in the
// user's model.
//
// A forward pass leaves an autograd graph. Walking it finds the nodes that consume parameters:
// linear layers, convolutions, norms and the like (captured_layers.h has the list) keep their
// input, and the gradient that arrives at the node is all that is missing. Taking gradients *at the
// node*, as reverse_sweep.h does, is immune to later in-place operations such as relu_ and `+=`,
// which replace a tensor's own history, and computes no batch-summed weight gradients on the way.
//
// A parameter is captured if every use of it is of a known kind; all others are listed as generic
// and take one reverse pass per example and output (see jacobian_products.h): slower, equally
// exact. Which is which is decided per network, once, by FindCapturedParameters. It compares
// captured with generic gradients on trial batches of several sizes, first as if the rows of an
// example stood together, then as if a row of every example did (batch_layout.h), and moves every
// parameter that disagrees twice to the generic side: a layout that the walk misreads costs time,
// never correctness. A pass whose graph uses a parameter otherwise than the trial did (control flow
// that depends on data) takes the generic side for it, too.
//
// Functions throw LibTorch exceptions; callers wrap them in CatchTorch. Thread-safe: nothing is
// kept between calls.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/function.h>

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/types/optional.h"
#include "server/model/batch_layout.h"
#include "server/model/network.h"

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
  // rows u [numel, K] of the directions; all three row-major. False, with nothing added, if this
  // kind of layer has no such closed form.
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

  // What the weight is applied to, averaged over the places where it is (rows of a linear layer,
  // pixels of a convolution): [B, in]. Undefined if this kind of layer has no such input.
  virtual at::Tensor MeanInput() const { return {}; }
};

// What was decided for a network once.
struct CapturePlan {
  // For each parameter:
  std::vector<bool> captured;
  std::vector<ExampleOrder> order;  // at all its uses
  // By which kinds of nodes: each way that a trial batch showed, because single examples may take
  // another path through LibTorch than several.
  std::vector<std::set<std::string>> uses;
  // Elements of one example's gradient at all captured nodes together, and at the largest.
  int64_t gradient_numel = 0, largest_gradient = 0;
  // Multiply-adds of one example's forward pass with captured weights, summed over their uses:
  // numel(weight) for each row of a linear layer and each position of a convolution, one for each
  // element of the output of a norm or scale, none for biases and look-ups.
  double forward_macs = 0;
};

// A forward pass with the uses of all parameters that are wanted and found.
struct CapturedForward {
  at::Tensor outputs;  // f, [B, C], with graph
  int64_t batch = 0;   // B
  // For each parameter: the plan's, less those that this pass used otherwise (control flow that
  // depends on data).
  std::vector<bool> captured;
  struct Node {
    std::shared_ptr<torch::autograd::Node> node;
    BatchLayout layout;  // of its output and so of the gradient there
    std::vector<std::pair<size_t, std::shared_ptr<ParameterUse>>> uses;  // (parameter index, use)
  };
  std::vector<Node> nodes;  // a node that is read in two layouts stands here twice

  // One reverse pass for the R combinations of outputs that `seeds` [B, C, R] asks for, or for the
  // C outputs themselves if it is undefined. Calls visit(n, grads) with the gradients [B, R, ...]
  // at nodes[n] as ParameterUse takes them; not if none arrive.
  void Sweep(const at::Tensor& seeds,
             const std::function<void(size_t n, const at::Tensor& grads)>& visit) const;
};

// Runs the network on x and captures the parameters that the plan says.
CapturedForward ForwardCaptured(const Network& network, const at::Tensor& x,
                                const CapturePlan& plan);

// A forward pass that keeps the input of one layer.
struct LayerForward {
  at::Tensor outputs;  // f, [B, C], without graph
  // MeanInput of the one use of the layer's weight, [B, in]; undefined if the weight is not
  // captured, has no such input, or is used several times.
  at::Tensor input;
};

// `weight` is the index of the parameter. Costs a forward pass that builds a graph.
LayerForward ForwardWithInputOf(const Network& network, const at::Tensor& x,
                                const CapturePlan& plan, size_t weight);

// Decides the plan for a network; see above.
CapturePlan FindCapturedParameters(const Network& network);

// Gradients of a single example, x [1, input_shape...], for the parameters that are *not* captured,
// concatenated in parameter order: [R, sum of their numel], of the combinations of outputs that
// `seeds` [C, R] asks for, or [C, ...] of the outputs if it is undefined. The generic path.
at::Tensor GenericJacobian(const Network& network, const at::Tensor& x,
                           const std::vector<bool>& captured, const at::Tensor& seeds = {});

}  // namespace laplaced
