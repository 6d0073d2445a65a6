#include "server/model/batch_norm_guard.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>

#include <memory>
#include <unordered_set>
#include <vector>

namespace laplaced {
namespace {

using torch::autograd::Node;
using torch::autograd::variable_list;

struct MakeContiguous : torch::autograd::FunctionPreHook {
  variable_list operator()(const variable_list& grads) override {
    variable_list contiguous = grads;
    if (!grads.empty() && grads[0].defined()) contiguous[0] = grads[0].contiguous();
    return contiguous;
  }
};

}  // namespace

void GuardBatchNormGradients(const at::Tensor& outputs) {
  if (!outputs.grad_fn()) return;
  std::vector<Node*> stack = {outputs.grad_fn().get()};
  std::unordered_set<Node*> seen(stack.begin(), stack.end());
  while (!stack.empty()) {
    Node* node = stack.back();
    stack.pop_back();
    if (node->name() == "NativeBatchNormBackward0") {
      node->add_pre_hook(std::make_unique<MakeContiguous>());
    }
    for (const torch::autograd::Edge& edge : node->next_edges()) {
      if (edge.function != nullptr && seen.insert(edge.function.get()).second) {
        stack.push_back(edge.function.get());
      }
    }
  }
}

}  // namespace laplaced
