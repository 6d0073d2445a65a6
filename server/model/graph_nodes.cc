#include "server/model/graph_nodes.h"

#include <unordered_set>

namespace laplaced {

using torch::autograd::Node;

std::vector<Node*> GraphNodes(const at::Tensor& outputs) {
  std::vector<Node*> nodes;
  if (!outputs.grad_fn()) return nodes;
  std::vector<Node*> stack = {outputs.grad_fn().get()};
  std::unordered_set<Node*> seen(stack.begin(), stack.end());
  while (!stack.empty()) {
    Node* node = stack.back();
    stack.pop_back();
    nodes.push_back(node);
    for (const torch::autograd::Edge& edge : node->next_edges()) {
      if (edge.function != nullptr && seen.insert(edge.function.get()).second) {
        stack.push_back(edge.function.get());
      }
    }
  }
  return nodes;
}

}  // namespace laplaced
