#include "server/model/layer_capture.h"

#include <torch/autograd.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "server/model/captured_layers.h"

namespace laplaced {
namespace {

using torch::autograd::Node;

// A parameter at the end of an edge, directly or through the transposition that a linear layer
// makes.
struct ParameterEdge {
  c10::TensorImpl* parameter = nullptr;
  bool transposed = false;
};

c10::TensorImpl* LeafOf(const Node* node) {
  const auto* accumulate = dynamic_cast<const torch::autograd::AccumulateGrad*>(node);
  return accumulate == nullptr ? nullptr : accumulate->variable.unsafeGetTensorImpl();
}

bool IsTransposedLeaf(const Node* node) {
  return node->name() == "TBackward0" && node->num_outputs() == 1 &&
         node->next_edge(0).function != nullptr &&
         LeafOf(node->next_edge(0).function.get()) != nullptr;
}

ParameterEdge ParameterBehind(const torch::autograd::Edge& edge) {
  if (edge.function == nullptr) return {};
  if (c10::TensorImpl* leaf = LeafOf(edge.function.get())) return {leaf, false};
  if (IsTransposedLeaf(edge.function.get())) {
    return {LeafOf(edge.function->next_edge(0).function.get()), true};
  }
  return {};
}

struct FoundUse {
  std::shared_ptr<Node> node;
  size_t parameter;
  std::shared_ptr<ParameterUse> use;  // null: the node is of no known kind
};

// Every use of every parameter in the graph behind `outputs`.
std::vector<FoundUse> FindUses(const Network& network, const at::Tensor& outputs) {
  std::unordered_map<c10::TensorImpl*, size_t> index;
  for (size_t i = 0; i < network.parameters().size(); ++i) {
    index[network.parameters()[i].value.unsafeGetTensorImpl()] = i;
  }
  std::vector<FoundUse> found;
  std::unordered_set<Node*> visited;
  std::vector<std::shared_ptr<Node>> stack;
  if (outputs.grad_fn()) stack.push_back(outputs.grad_fn());
  while (!stack.empty()) {
    const std::shared_ptr<Node> node = stack.back();
    stack.pop_back();
    if (!visited.insert(node.get()).second) continue;
    for (uint32_t i = 0; i < node->num_outputs(); ++i) {
      const torch::autograd::Edge& edge = node->next_edge(i);
      if (edge.function == nullptr) continue;
      const ParameterEdge behind = ParameterBehind(edge);
      if (behind.parameter == nullptr) {
        stack.push_back(edge.function);
        continue;
      }
      const auto it = index.find(behind.parameter);
      if (it == index.end()) continue;
      found.push_back({node, it->second,
                       MakeParameterUse(node, i, behind.transposed, outputs.size(0),
                                        network.parameters()[it->second].value)});
    }
  }
  return found;
}

// Gradient of example `row` of every output with respect to the parameters in `leaves`: [C,
// numel...] each.
std::vector<at::Tensor> RowsOfJacobian(const at::Tensor& outputs,
                                       const std::vector<at::Tensor>& leaves) {
  const int64_t c = outputs.size(1);
  std::vector<at::Tensor> rows(leaves.size());
  for (size_t p = 0; p < leaves.size(); ++p) {
    rows[p] = at::zeros({c, leaves[p].numel()}, leaves[p].options().requires_grad(false));
  }
  for (int64_t k = 0; k < c; ++k) {
    at::Tensor s = at::zeros_like(outputs);
    s.index_put_({at::indexing::Slice(), k}, 1);
    const auto grads = torch::autograd::grad({outputs}, leaves, {s}, /*retain_graph=*/k + 1 < c,
                                             /*create_graph=*/false,
                                             /*allow_unused=*/true);
    for (size_t p = 0; p < leaves.size(); ++p) {
      if (grads[p].defined()) rows[p][k].copy_(grads[p].flatten());
    }
  }
  return rows;
}

}  // namespace

std::vector<at::Tensor> CapturedForward::OutputGradients() const {
  const int64_t c = outputs.size(1);
  torch::autograd::edge_list edges;
  for (const Node& node : nodes) edges.push_back(node.edge);
  std::vector<std::vector<at::Tensor>> per_node(nodes.size());
  if (nodes.empty()) return {};
  const torch::autograd::edge_list roots = {
      torch::autograd::Edge(outputs.grad_fn(), outputs.output_nr())};
  for (int64_t k = 0; k < c; ++k) {
    at::Tensor s = at::zeros(outputs.sizes(), outputs.options().requires_grad(false));
    s.select(1, k).fill_(1);
    const auto grads = torch::autograd::Engine::get_default_engine().execute(
        roots, {s}, /*keep_graph=*/true, /*create_graph=*/false, /*accumulate_grad=*/false, edges);
    for (size_t i = 0; i < nodes.size(); ++i) per_node[i].push_back(grads[i]);
  }
  std::vector<at::Tensor> stacked(nodes.size());
  for (size_t i = 0; i < nodes.size(); ++i) {
    const auto present = std::find_if(per_node[i].begin(), per_node[i].end(),
                                      [](const at::Tensor& t) { return t.defined(); });
    if (present == per_node[i].end()) continue;
    for (at::Tensor& t : per_node[i]) {
      if (!t.defined()) t = at::zeros_like(*present);
    }
    stacked[i] = at::stack(per_node[i], 1);
  }
  return stacked;
}

CapturedForward ForwardCaptured(const Network& network, const at::Tensor& x,
                                const CaptureMask& mask) {
  CapturedForward forward;
  forward.outputs = network.ForwardWithGraph(x);
  std::unordered_map<torch::autograd::Node*, size_t> position;
  CaptureMask missing = mask;
  for (FoundUse& found : FindUses(network, forward.outputs)) {
    if (!mask[found.parameter]) continue;
    TORCH_CHECK(found.use != nullptr, "parameter ", network.parameters()[found.parameter].name,
                " is used differently than when the model was loaded");
    missing[found.parameter] = false;
    const auto [it, inserted] = position.emplace(found.node.get(), forward.nodes.size());
    if (inserted) forward.nodes.push_back({torch::autograd::Edge(found.node, 0), {}});
    forward.nodes[it->second].uses.emplace_back(found.parameter, std::move(found.use));
  }
  for (size_t i = 0; i < missing.size(); ++i) {
    TORCH_CHECK(!missing[i], "parameter ", network.parameters()[i].name,
                " is not used as it was when the model was loaded");
  }
  return forward;
}

at::Tensor GenericJacobian(const Network& network, const at::Tensor& x, const CaptureMask& mask) {
  std::vector<at::Tensor> leaves;
  for (size_t i = 0; i < mask.size(); ++i) {
    if (!mask[i]) leaves.push_back(network.parameters()[i].value);
  }
  return at::cat(RowsOfJacobian(network.ForwardWithGraph(x), leaves), 1);
}

CaptureMask FindCapturedParameters(const Network& network) {
  at::NoGradGuard no_grad;
  constexpr int64_t kBatch = 3;
  const at::Tensor x = network.TrialInputs(kBatch);
  const at::Tensor outputs = network.ForwardWithGraph(x);
  CaptureMask mask(network.parameters().size(), true);
  std::vector<bool> used(mask.size(), false);
  for (const FoundUse& found : FindUses(network, outputs)) {
    used[found.parameter] = true;
    if (found.use == nullptr) mask[found.parameter] = false;
  }
  for (size_t i = 0; i < mask.size(); ++i) mask[i] = mask[i] && used[i];

  // Trust, but verify: the captured gradients against plain reverse passes, example by example.
  const CapturedForward forward = ForwardCaptured(network, x, mask);
  const std::vector<at::Tensor> grads = forward.OutputGradients();
  std::vector<at::Tensor> captured(mask.size());
  for (size_t n = 0; n < forward.nodes.size(); ++n) {
    if (!grads[n].defined()) continue;
    for (const auto& [parameter, use] : forward.nodes[n].uses) {
      const at::Tensor jacobian = use->Jacobian(grads[n], 0, kBatch);
      captured[parameter] =
          captured[parameter].defined() ? captured[parameter] + jacobian : jacobian;
    }
  }
  std::vector<at::Tensor> leaves;
  for (const Parameter& p : network.parameters()) leaves.push_back(p.value);
  const double tolerance = network.dtype() == at::kDouble ? 1e-9 : 1e-3;
  for (int64_t b = 0; b < kBatch; ++b) {
    const auto rows = RowsOfJacobian(network.ForwardWithGraph(x.narrow(0, b, 1)), leaves);
    for (size_t i = 0; i < mask.size(); ++i) {
      if (!mask[i]) continue;
      const at::Tensor mine = captured[i].defined() ? captured[i][b] : at::zeros_like(rows[i]);
      const double scale = rows[i].abs().max().item<double>();
      if (!((mine - rows[i]).abs().max().item<double>() <= tolerance * scale)) mask[i] = false;
    }
  }
  return mask;
}

}  // namespace laplaced
