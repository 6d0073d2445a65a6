#include "server/model/reverse_sweep.h"

#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "server/model/channel_gradients.h"
#include "server/model/convolution_gradients.h"
#include "server/model/convolution_node.h"

namespace laplaced {
namespace {

using torch::autograd::Edge;
using torch::autograd::Node;
namespace generated = torch::autograd::generated;

// Gradients on their way to a node.
struct Gradient {
  at::Tensor value;    // [R, ...]; undefined: none
  bool owned = false;  // made by this sweep, for this way only

  // A visitor may have kept a view.
  bool Writable() const { return owned && value.storage().use_count() == 1; }
};

void Accumulate(Gradient& sum, Gradient more) {
  if (!sum.value.defined()) {
    sum = std::move(more);
  } else if (sum.Writable()) {
    sum.value.add_(more.value);
  } else if (more.Writable()) {
    more.value.add_(sum.value);
    sum = std::move(more);
  } else {
    sum = {sum.value + more.value, true};
  }
}

// The nodes that lead to a wanted one, every node before those that its gradients go to.
class Order {
 public:
  Order(Node* root, const std::unordered_map<const Node*, std::vector<size_t>>& wanted) {
    // Depth first without recursion; networks may be deep.
    struct Frame {
      Node* node;
      uint32_t next;
      bool needed;
    };
    std::unordered_set<const Node*> visited = {root};
    std::vector<Frame> stack = {{root, 0, wanted.count(root) > 0}};
    while (!stack.empty()) {
      Frame& frame = stack.back();
      if (frame.next < frame.node->num_outputs()) {
        Node* child = frame.node->next_edge(frame.next++).function.get();
        if (child == nullptr) continue;
        if (visited.insert(child).second) {
          stack.push_back({child, 0, wanted.count(child) > 0});
        } else if (needed_.count(child) > 0) {
          frame.needed = true;
        }
        continue;
      }
      const Frame done = frame;
      stack.pop_back();
      if (!done.needed) continue;
      needed_.insert(done.node);
      nodes_.push_back(done.node);
      if (!stack.empty()) stack.back().needed = true;
    }
    std::reverse(nodes_.begin(), nodes_.end());
  }

  const std::vector<Node*>& nodes() const { return nodes_; }
  bool Needs(const Edge& edge) const {
    return edge.function != nullptr && needed_.count(edge.function.get()) > 0;
  }

 private:
  std::unordered_set<const Node*> needed_;
  std::vector<Node*> nodes_;
};

// The only edge of the node that leads on, or -1 if there are others.
int OnlyEdge(const Node& node, const Order& order) {
  int only = -1;
  for (uint32_t i = 0; i < node.num_outputs(); ++i) {
    if (!order.Needs(node.next_edge(i))) continue;
    if (only >= 0) return -1;
    only = static_cast<int>(i);
  }
  return only;
}

// Gradients for each edge of a node; undefined where nothing is needed or known.
using EdgeGradients = std::vector<Gradient>;

// Node by node for each seed: what the engine would do.
EdgeGradients OneByOne(Node& node, const std::vector<Gradient>& grads, const Order& order) {
  int64_t seeds = 0;
  for (const Gradient& g : grads) {
    if (g.value.defined()) seeds = g.value.size(0);
  }
  EdgeGradients result(node.num_outputs());
  for (int64_t r = 0; r < seeds; ++r) {
    torch::autograd::variable_list inputs;
    for (const Gradient& g : grads) {
      // In the usual order: some kernels misread others (batch_norm_guard.h).
      inputs.push_back(g.value.defined() ? g.value.select(0, r).contiguous() : at::Tensor());
    }
    torch::autograd::variable_list outputs = node(std::move(inputs));
    for (size_t i = 0; i < outputs.size(); ++i) {
      const Edge& edge = node.next_edge(i);
      if (!outputs[i].defined() || !order.Needs(edge)) continue;
      const auto& metadata = edge.function->input_metadata(edge.input_nr);
      if (!metadata.is_same_shape(outputs[i])) outputs[i] = metadata.reduce_grad(outputs[i]);
      at::Tensor& all = result[i].value;
      if (!all.defined()) {
        std::vector<int64_t> sizes = outputs[i].sizes().vec();
        sizes.insert(sizes.begin(), seeds);
        all = r == 0 ? at::empty(sizes, outputs[i].options())
                     : at::zeros(sizes, outputs[i].options());
        result[i].owned = true;
      }
      all.select(0, r).copy_(outputs[i]);
    }
  }
  return result;
}

// Undefined if the node is no batch norm in evaluation.
Gradient ThroughBatchNorm(generated::NativeBatchNormBackward0& node, const Gradient& g) {
  if (node.training) return {};
  const at::Tensor variance = node.running_var_.unpack(), weight = node.weight_.unpack();
  if (!variance.defined()) return {};
  at::Tensor scale = (variance + node.eps).rsqrt();
  if (weight.defined()) scale = scale * weight.detach();
  return {ScaledChannels(scale, g.value, g.Writable()), true};
}

// Gradients at a of a W', for gradients [R, n, out] and W' as the node keeps it, [in, out].
Gradient ThroughProduct(const at::Tensor& right, const at::Tensor& grads) {
  const at::Tensor rows = grads.reshape({-1, grads.size(-1)});
  std::vector<int64_t> sizes = grads.sizes().vec();
  sizes.back() = right.size(0);
  return {at::mm(rows, right.detach().t()).view(sizes), true};
}

Gradient ThroughConvolution(const ConvolutionNode& node, const at::Tensor& grads) {
  const at::Tensor images = grads.flatten(0, 1).contiguous();
  const at::Tensor result = ConvolutionInputGradient(node.shape, node.weight.detach(), images);
  std::vector<int64_t> sizes = result.sizes().vec();
  sizes[0] = grads.size(1);
  sizes.insert(sizes.begin(), grads.size(0));
  return {result.view(sizes), true};
}

// Passes both summands the same gradients. Empty if one of them was spread over the other.
EdgeGradients ThroughAddition(generated::AddBackward0& node, const Gradient& g,
                              const Order& order) {
  EdgeGradients result(2);
  int64_t receivers = 0;
  for (uint32_t i = 0; i < 2; ++i) {
    const Edge& edge = node.next_edge(i);
    if (!order.Needs(edge)) continue;
    const auto& metadata = edge.function->input_metadata(edge.input_nr);
    if (!metadata.is_same_shape(g.value.select(0, 0))) return {};
    if (i == 1 && node.alpha.toDouble() != 1) return {};
    result[i] = g;
    ++receivers;
  }
  for (Gradient& r : result) r.owned = g.owned && receivers == 1;
  return result;
}

// By a kernel of our own; empty if there is none for this node.
EdgeGradients AllAtOnce(Node& node, std::vector<Gradient>& grads, const Order& order) {
  const std::string kind = node.name();
  Gradient& g = grads[0];
  if (!g.value.defined()) return {};
  if (kind == "AddBackward0") {
    return ThroughAddition(static_cast<generated::AddBackward0&>(node), g, order);
  }
  const int edge = OnlyEdge(node, order);
  if (edge < 0) return {};
  EdgeGradients result(node.num_outputs());
  Gradient& target = result[edge];
  if (kind == "ReluBackward0") {
    const at::Tensor result =
        static_cast<generated::ReluBackward0&>(node).result_.unpack(node.shared_from_this());
    target = {GradientThroughRelu(result, g.value, g.Writable()), true};
  } else if (kind == "NativeBatchNormBackward0" && edge == 0) {
    target = ThroughBatchNorm(static_cast<generated::NativeBatchNormBackward0&>(node), g);
  } else if (kind == "AddmmBackward0" && edge == 1) {
    auto& product = static_cast<generated::AddmmBackward0&>(node);
    if (product.alpha.toDouble() == 1) target = ThroughProduct(product.mat2_.unpack(), g.value);
  } else if (kind == "MmBackward0" && edge == 0) {
    target = ThroughProduct(static_cast<generated::MmBackward0&>(node).mat2_.unpack(), g.value);
  } else if (edge == 0) {
    if (const auto convolution = AsConvolution(node)) {
      target = ThroughConvolution(*convolution, g.value);
    }
  }
  if (!target.value.defined()) return {};
  return result;
}

}  // namespace

void ReverseSweep(const at::Tensor& outputs, const at::Tensor& seeds,
                  const std::vector<const Node*>& wanted, const NodeVisitor& visit) {
  at::NoGradGuard no_grad;
  if (outputs.grad_fn() == nullptr) return;
  std::unordered_map<const Node*, std::vector<size_t>> index;
  for (size_t i = 0; i < wanted.size(); ++i) index[wanted[i]].push_back(i);
  const Order order(outputs.grad_fn().get(), index);
  if (order.nodes().empty()) return;
  std::unordered_map<const Node*, std::vector<Gradient>> pending;
  const auto arrive = [&](Node* node, uint32_t input, Gradient g) {
    std::vector<Gradient>& grads = pending[node];
    grads.resize(node->num_inputs());
    Accumulate(grads[input], std::move(g));
  };
  arrive(outputs.grad_fn().get(), outputs.output_nr(), {seeds, false});
  for (Node* node : order.nodes()) {
    const auto it = pending.find(node);
    if (it == pending.end()) continue;
    std::vector<Gradient> grads = std::move(it->second);
    pending.erase(it);
    if (const auto found = index.find(node); found != index.end() && grads[0].value.defined()) {
      for (const size_t i : found->second) visit(i, grads[0].value);
    }
    bool leads_on = false;
    for (const Edge& edge : node->next_edges()) leads_on |= order.Needs(edge);
    if (!leads_on) continue;
    EdgeGradients next = AllAtOnce(*node, grads, order);
    if (next.empty()) next = OneByOne(*node, grads, order);
    grads.clear();
    for (size_t i = 0; i < next.size(); ++i) {
      if (!next[i].value.defined()) continue;
      const Edge& edge = node->next_edge(i);
      arrive(edge.function.get(), edge.input_nr, std::move(next[i]));
    }
  }
}

}  // namespace laplaced
