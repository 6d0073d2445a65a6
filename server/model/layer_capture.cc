#include "server/model/layer_capture.h"

#include <torch/autograd.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "server/model/captured_layers.h"
#include "server/model/reverse_sweep.h"

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

// Every use of every parameter in the graph behind `outputs`, of `batch` examples.
std::vector<FoundUse> FindUses(const Network& network, const at::Tensor& outputs, int64_t batch) {
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
                       MakeParameterUse(node, i, behind.transposed, {batch},
                                        network.parameters()[it->second].value)});
    }
  }
  return found;
}

// Gradients of the combinations `seeds` [C, R] of the outputs [1, C] with respect to `leaves`: [R,
// numel] each.
std::vector<at::Tensor> RowsOfJacobian(const at::Tensor& outputs,
                                       const std::vector<at::Tensor>& leaves,
                                       const at::Tensor& seeds) {
  const int64_t c = seeds.size(1);
  std::vector<at::Tensor> rows(leaves.size());
  for (size_t p = 0; p < leaves.size(); ++p) {
    rows[p] = at::zeros({c, leaves[p].numel()}, leaves[p].options().requires_grad(false));
  }
  for (int64_t k = 0; k < c; ++k) {
    const at::Tensor s = seeds.select(1, k).unsqueeze(0);
    const auto grads = torch::autograd::grad({outputs}, leaves, {s}, /*retain_graph=*/k + 1 < c,
                                             /*create_graph=*/false,
                                             /*allow_unused=*/true);
    for (size_t p = 0; p < leaves.size(); ++p) {
      if (grads[p].defined()) rows[p][k].copy_(grads[p].flatten());
    }
  }
  return rows;
}

at::Tensor Identity(const at::Tensor& outputs) {
  return at::eye(outputs.size(1), outputs.options().requires_grad(false));
}

}  // namespace

namespace {

// [R, B * rows, ...] -> [B, R, ...], with a dimension for the rows of an example if it has several.
at::Tensor ByExample(const at::Tensor& grads, int64_t batch) {
  std::vector<int64_t> shape = grads.sizes().vec();
  const int64_t rows = shape[1] / batch;
  shape[1] = batch;
  if (rows > 1) shape.insert(shape.begin() + 2, rows);
  return grads.reshape(shape).transpose(0, 1);
}

}  // namespace

void CapturedForward::Sweep(
    const at::Tensor& seeds,
    const std::function<void(size_t n, const at::Tensor& grads)>& visit) const {
  std::vector<const torch::autograd::Node*> wanted;
  for (const Node& node : nodes) wanted.push_back(node.node.get());
  const int64_t c = outputs.size(1);
  const at::Tensor all =
      seeds.defined()
          ? seeds.permute({2, 0, 1}).contiguous()
          : at::eye(c, outputs.options().requires_grad(false)).unsqueeze(1).expand({c, batch, c});
  ReverseSweep(outputs, all, wanted,
               [&](size_t n, const at::Tensor& grads) { visit(n, ByExample(grads, batch)); });
}

CapturedForward ForwardCaptured(const Network& network, const at::Tensor& x,
                                const CapturePlan& plan) {
  CapturedForward forward;
  forward.batch = x.size(0);
  forward.outputs = network.ForwardWithGraph(x);
  std::vector<FoundUse> uses = FindUses(network, forward.outputs, forward.batch);
  std::vector<bool> found(plan.captured.size(), false), known(plan.captured.size(), true);
  for (const FoundUse& use : uses) {
    found[use.parameter] = true;
    if (use.use == nullptr) known[use.parameter] = false;
  }
  forward.captured = plan.captured;
  for (size_t i = 0; i < found.size(); ++i)
    forward.captured[i] = plan.captured[i] && found[i] && known[i];
  std::unordered_map<torch::autograd::Node*, size_t> position;
  for (FoundUse& use : uses) {
    if (!forward.captured[use.parameter]) continue;
    const auto [it, inserted] = position.emplace(use.node.get(), forward.nodes.size());
    if (inserted) forward.nodes.push_back({use.node, {}});
    forward.nodes[it->second].uses.emplace_back(use.parameter, std::move(use.use));
  }
  return forward;
}

at::Tensor GenericJacobian(const Network& network, const at::Tensor& x,
                           const std::vector<bool>& captured, const at::Tensor& seeds) {
  std::vector<at::Tensor> leaves;
  for (size_t i = 0; i < captured.size(); ++i) {
    if (!captured[i]) leaves.push_back(network.parameters()[i].value);
  }
  const at::Tensor outputs = network.ForwardWithGraph(x);
  return at::cat(RowsOfJacobian(outputs, leaves, seeds.defined() ? seeds : Identity(outputs)), 1);
}

CapturePlan FindCapturedParameters(const Network& network) {
  at::NoGradGuard no_grad;
  constexpr int64_t kBatch = 3;
  const at::Tensor x = network.TrialInputs(kBatch);
  const at::Tensor outputs = network.ForwardWithGraph(x);
  CapturePlan plan;
  plan.captured.assign(network.parameters().size(), true);
  std::vector<bool> used(plan.captured.size(), false);
  for (const FoundUse& found : FindUses(network, outputs, kBatch)) {
    used[found.parameter] = true;
    if (found.use == nullptr) plan.captured[found.parameter] = false;
  }
  for (size_t i = 0; i < used.size(); ++i) plan.captured[i] = plan.captured[i] && used[i];

  // Trust, but verify: the captured gradients against plain reverse passes, example by example.
  std::vector<at::Tensor> leaves;
  for (const Parameter& p : network.parameters()) leaves.push_back(p.value);
  std::vector<std::vector<at::Tensor>> expected;
  for (int64_t b = 0; b < kBatch; ++b) {
    const at::Tensor row = network.ForwardWithGraph(x.narrow(0, b, 1));
    expected.push_back(RowsOfJacobian(row, leaves, Identity(row)));
  }
  const double tolerance = network.dtype() == at::kDouble ? 1e-9 : 1e-3;
  const CapturedForward forward = ForwardCaptured(network, x, plan);
  std::vector<at::Tensor> captured(plan.captured.size());
  forward.Sweep({}, [&](size_t n, const at::Tensor& grads) {
    plan.largest_gradient =
        std::max(plan.largest_gradient, grads.numel() / (kBatch * network.n_outputs()));
    for (const auto& [parameter, use] : forward.nodes[n].uses) {
      const at::Tensor jacobian = use->Jacobian(grads, 0, kBatch);
      captured[parameter] =
          captured[parameter].defined() ? captured[parameter] + jacobian : jacobian;
    }
  });
  for (int64_t b = 0; b < kBatch; ++b) {
    for (size_t i = 0; i < plan.captured.size(); ++i) {
      if (!plan.captured[i]) continue;
      const at::Tensor& row = expected[b][i];
      const at::Tensor mine = captured[i].defined() ? captured[i][b] : at::zeros_like(row);
      const double scale = row.abs().max().item<double>();
      if (!((mine - row).abs().max().item<double>() <= tolerance * scale)) plan.captured[i] = false;
    }
  }
  return plan;
}

}  // namespace laplaced
