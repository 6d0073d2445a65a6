// A trained network as a function of its parameters: forward pass, forward-mode and reverse-mode
// products.
//
// Parameters are seen as one vector theta of length P: all registered floating-point parameters
// that the outputs depend on, in registration order, each flattened row-major; a tensor that is
// registered under several names (shared weights) counts once. Inputs are [B, input_shape...],
// outputs f [B, C]. Everything is computed in the parameters' own precision (fp32 or fp64).
// Restrict makes a network of which only some parameters are theta.
//
// Ownership and threads: a Network owns its module; copying the object shares it, Clone makes a
// deep copy. Forward and ForwardWithGraph may run on several threads at once. ForwardAndJvp
// replaces parameters inside the module while it runs: use it on a clone that no other thread
// touches. Member functions throw LibTorch exceptions; callers wrap them in CatchTorch.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/jit/api/module.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace laplaced {

struct Parameter {
  std::string name;    // first registered name, "features.0.weight"
  at::Tensor value;    // leaf that requires grad; never written
  int64_t offset = 0;  // of its first element in theta
  // Where the module keeps it (several places for shared weights).
  std::vector<std::pair<torch::jit::Module, std::string>> slots;
  std::vector<int64_t> constant_rows = {};  // of an embedding, for padding: they get no gradient
};

class Network {
 public:
  // Reads a TorchScript file and makes a network of it; errors as for FromModule, messages start
  // with `file_name`.
  static absl::StatusOr<Network> Load(const std::string& path, const std::string& file_name,
                                      const std::vector<int64_t>& input_shape, int64_t n_outputs);

  // Switches the module to evaluation and checks on a trial batch what Laplace relies on.
  // FAILED_PRECONDITION if it has no parameters, mixes or lacks fp32/fp64, holds values that are
  // not finite, does not map [B, input_shape...] to [B, C], gives different answers to the same
  // question (dropout left on), lets examples of a batch influence each other (batch norm in
  // training mode), or does not depend on its parameters.
  static absl::StatusOr<Network> FromModule(torch::jit::Module module,
                                            const std::vector<int64_t>& input_shape,
                                            int64_t n_outputs);

  // A deep copy; of a restricted network one that is restricted likewise.
  absl::StatusOr<Network> Clone() const;

  // The same function of fewer parameters: theta is made of the parameters called `names`, in the
  // order they have here, with offsets of their own; the others are constants, which no product
  // moves. Shares the module. A Clone of the result computes with less: the original's other
  // parameters still take part in the graph. REQUIRES: every name is in parameters(), and there is
  // at least one.
  Network Restrict(const std::vector<std::string>& names) const;

  int64_t n_parameters() const { return n_parameters_; }
  int64_t n_outputs() const { return n_outputs_; }
  const std::vector<int64_t>& input_shape() const { return input_shape_; }
  at::ScalarType dtype() const { return dtype_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }
  // Names of registered parameters that the outputs do not depend on (unused, or behind a detach);
  // not part of theta.
  const std::vector<std::string>& unused_parameters() const { return unused_parameters_; }
  // Names of the parameters that Restrict left out of theta, in registration order.
  const std::vector<std::string>& constant_parameters() const { return constant_parameters_; }

  // f(x) without any graph.
  at::Tensor Forward(const at::Tensor& x) const;

  // f(x) whose graph leads to parameters().
  at::Tensor ForwardWithGraph(const at::Tensor& x) const;

  // f(x), with graph, and J v without, for v [P]: one forward-mode pass. Takes a process-wide lock,
  // because LibTorch has one level of forward-mode differentiation per process.
  std::pair<at::Tensor, at::Tensor> ForwardAndJvp(const at::Tensor& x, const at::Tensor& v) const;

  // J' s summed over the batch, [P], for outputs of ForwardWithGraph or ForwardAndJvp and s [B, C].
  // Frees the graph.
  at::Tensor Vjp(const at::Tensor& outputs, const at::Tensor& s) const;

  // theta, [P].
  at::Tensor FlatParameters() const;

  // How many numbers the largest intermediate result on the way from theta to the outputs has for
  // each example (activations of a layer, say). By two trial passes.
  int64_t LargestResultPerExample() const;

  // The same `n` pseudo-random inputs every time, for checks and warm-up: [n, input_shape...],
  // uniform in [0, 1).
  at::Tensor TrialInputs(int64_t n) const;

 private:
  Network() = default;

  torch::jit::Module module_;
  bool updates_from_itself_ = false;  // self_updates.h
  std::vector<Parameter> parameters_;
  std::vector<std::string> unused_parameters_;
  std::vector<std::string> constant_parameters_;
  std::vector<int64_t> input_shape_;
  int64_t n_parameters_ = 0;
  int64_t n_outputs_ = 0;
  at::ScalarType dtype_ = at::kFloat;
};

}  // namespace laplaced
