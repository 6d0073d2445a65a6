#include "server/model/batch_norm_guard.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>

#include <memory>

#include "server/model/graph_nodes.h"

namespace laplaced {
namespace {

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
  for (torch::autograd::Node* node : GraphNodes(outputs)) {
    if (node->name() == "NativeBatchNormBackward0") {
      node->add_pre_hook(std::make_unique<MakeContiguous>());
    }
  }
}

}  // namespace laplaced
