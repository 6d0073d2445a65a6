// The autograd graph behind a tensor.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/function.h>

#include <vector>

namespace laplaced {

// Every node once, in an order that depends on the graph's form alone; none if `outputs` have no
// history. The outputs keep them alive.
std::vector<torch::autograd::Node*> GraphNodes(const at::Tensor& outputs);

}  // namespace laplaced
