#include "tests/reference/networks.h"

#include <ATen/CPUGeneratorImpl.h>
#include <torch/script.h>

#include <stdexcept>

namespace laplaced::reference {

at::Tensor RandomNormal(at::IntArrayRef shape, uint64_t seed, at::ScalarType dtype) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::randn(shape, generator, at::TensorOptions(dtype));
}

torch::jit::Module MakeModule(
    const std::vector<std::pair<std::string, std::vector<int64_t>>>& parameters,
    const std::string& body, at::ScalarType dtype, uint64_t seed, double scale) {
  torch::jit::Module module("net");
  for (const auto& [name, shape] : parameters) {
    module.register_parameter(name, RandomNormal(shape, seed++, dtype) * scale,
                              /*is_buffer=*/false);
  }
  module.register_attribute("training", c10::BoolType::get(), true);
  module.define("def forward(self, x):\n" + body);
  return module;
}

Network MakeNetwork(torch::jit::Module module, const std::vector<int64_t>& input_shape,
                    int64_t n_outputs) {
  auto network = Network::FromModule(std::move(module), input_shape, n_outputs);
  if (!network.ok()) throw std::runtime_error(network.status().ToString());
  return *std::move(network);
}

Network LinearNetwork(int64_t inputs, int64_t outputs, at::ScalarType dtype) {
  return MakeNetwork(
      MakeModule({{"w", {outputs, inputs}}}, "  return torch.matmul(x, self.w.t())\n", dtype),
      {inputs}, outputs);
}

Network TanhMlp(int64_t inputs, int64_t hidden, int64_t outputs, at::ScalarType dtype) {
  return MakeNetwork(MakeModule({{"w1", {hidden, inputs}},
                                 {"b1", {hidden}},
                                 {"w2", {outputs, hidden}},
                                 {"b2", {outputs}}},
                                "  h = torch.tanh(torch.linear(x, self.w1, self.b1))\n"
                                "  return torch.linear(h, self.w2, self.b2)\n",
                                dtype),
                     {inputs}, outputs);
}

Network ConvNet(int64_t outputs, at::ScalarType dtype) {
  return MakeNetwork(
      MakeModule({{"w1", {3, 2, 3, 3}}, {"b1", {3}}, {"w2", {outputs, 27}}, {"b2", {outputs}}},
                 "  h = torch.relu_(torch.conv2d(x, self.w1, self.b1, [1, 1], [1, 1]))\n"
                 "  h = torch.max_pool2d(h, [2, 2])\n"
                 "  return torch.linear(torch.flatten(h, 1), self.w2, self.b2)\n",
                 dtype),
      {2, 6, 6}, outputs);
}

}  // namespace laplaced::reference
