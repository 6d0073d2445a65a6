// Small TorchScript networks, built in memory, for tests: known architectures with seeded weights
// in any precision.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/jit/api/module.h>

#include <string>
#include <utility>
#include <vector>

#include "server/model/network.h"

namespace laplaced::reference {

// A module with the given parameters (standard normal times `scale`) and forward source ("return
// ...", uses x and self).
torch::jit::Module MakeModule(
    const std::vector<std::pair<std::string, std::vector<int64_t>>>& parameters,
    const std::string& body, at::ScalarType dtype, uint64_t seed = 0, double scale = 0.5);

// Network::FromModule that must succeed.
Network MakeNetwork(torch::jit::Module module, const std::vector<int64_t>& input_shape,
                    int64_t n_outputs);

// f(x) = x W' + b-free linear map, W [outputs, inputs].
Network LinearNetwork(int64_t inputs, int64_t outputs, at::ScalarType dtype = at::kDouble);

// inputs -> hidden tanh -> outputs, with biases.
Network TanhMlp(int64_t inputs, int64_t hidden, int64_t outputs,
                at::ScalarType dtype = at::kDouble);

// Convolution, in-place ReLU, pooling and a linear head on [2, 6, 6] inputs.
Network ConvNet(int64_t outputs, at::ScalarType dtype = at::kDouble);

at::Tensor RandomNormal(at::IntArrayRef shape, uint64_t seed, at::ScalarType dtype = at::kDouble);

}  // namespace laplaced::reference
