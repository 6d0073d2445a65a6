#include "server/model/network.h"

#include <ATen/CPUGeneratorImpl.h>
#include <torch/autograd.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/script.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <unordered_map>
#include <unordered_set>

#include "absl/strings/str_cat.h"
#include "formats/array.h"
#include "server/model/batch_norm_guard.h"
#include "server/model/graph_nodes.h"
#include "server/model/padding_rows.h"
#include "server/model/self_updates.h"
#include "server/model/torch_status.h"
#include "server/model/torchscript_file.h"

namespace laplaced {
namespace {

absl::Status Unsuitable(const std::string& message) {
  return absl::FailedPreconditionError(message);
}

// The interpreter without the optimising executors: their first calls are 100 times slower, and
// their fused graphs hide the layers from autograd.
at::Tensor RunModule(const torch::jit::Module& module, const at::Tensor& x) {
  torch::jit::GraphOptimizerEnabledGuard no_optimizer(false);
  torch::jit::Module callable = module;  // shares all state; forward is not const
  const c10::IValue result = callable.forward({x});
  TORCH_CHECK(result.isTensor(), "expected the module to return one tensor, got ",
              result.tagKind());
  return result.toTensor();
}

// One level of forward-mode differentiation, for as long as it lives.
class ForwardAdScope {
 public:
  ForwardAdScope() : lock_(Mutex()), level_(torch::autograd::ForwardADLevel::get_next_idx()) {}
  ~ForwardAdScope() { torch::autograd::ForwardADLevel::release_idx(level_); }
  uint64_t level() const { return level_; }

 private:
  static std::mutex& Mutex() {
    static std::mutex mutex;
    return mutex;
  }
  std::lock_guard<std::mutex> lock_;
  uint64_t level_;
};

// Puts the original parameters back whatever happens.
class ParameterRestorer {
 public:
  explicit ParameterRestorer(const std::vector<Parameter>& parameters) : parameters_(parameters) {}
  ~ParameterRestorer() {
    for (const Parameter& p : parameters_) Set(p, p.value);
  }
  static void Set(const Parameter& p, const at::Tensor& value) {
    for (const auto& [owner, name] : p.slots) owner._ivalue()->setAttr(name, value);
  }

 private:
  const std::vector<Parameter>& parameters_;
};

// All parameters but those named in `without`.
absl::StatusOr<std::vector<Parameter>> CollectParameters(
    const torch::jit::Module& module, const std::vector<std::string>& without = {}) {
  std::vector<Parameter> parameters;
  std::unordered_map<c10::TensorImpl*, size_t> seen;
  std::unordered_set<c10::TensorImpl*> left_out;
  int64_t offset = 0;
  for (const auto& submodule : module.named_modules()) {
    for (const auto& entry : submodule.value.named_parameters(/*recurse=*/false)) {
      const std::string name =
          submodule.name.empty() ? entry.name : absl::StrCat(submodule.name, ".", entry.name);
      const at::Tensor& value = entry.value;
      if (std::find(without.begin(), without.end(), name) != without.end()) {
        left_out.insert(value.unsafeGetTensorImpl());
      }
      if (left_out.count(value.unsafeGetTensorImpl()) > 0) continue;
      if (const auto it = seen.find(value.unsafeGetTensorImpl()); it != seen.end()) {
        parameters[it->second].slots.emplace_back(submodule.value, entry.name);
        continue;
      }
      if (value.scalar_type() != at::kFloat && value.scalar_type() != at::kDouble) {
        return Unsuitable(absl::StrCat("parameter ", name, " has type ",
                                       at::toString(value.scalar_type()),
                                       ", expected float32 or float64"));
      }
      if (!parameters.empty() && value.scalar_type() != parameters[0].value.scalar_type()) {
        return Unsuitable(absl::StrCat("parameters mix types: ", name, " is ",
                                       at::toString(value.scalar_type()), ", ", parameters[0].name,
                                       " is ", at::toString(parameters[0].value.scalar_type())));
      }
      if (!value.isfinite().all().item<bool>()) {
        return Unsuitable(absl::StrCat("parameter ", name, " holds values that are not finite"));
      }
      seen[value.unsafeGetTensorImpl()] = parameters.size();
      value.requires_grad_(true);
      parameters.push_back({name, value, offset, {{submodule.value, entry.name}}});
      offset += value.numel();
    }
  }
  if (offset == 0) {
    return Unsuitable(
        "the module has no parameters: was it frozen or traced with constants? Export it with "
        "torch.jit.script or torch.jit.trace, without freeze or optimize_for_inference");
  }
  return parameters;
}

// True if the two differ by more than rounding.
bool Differ(const at::Tensor& a, const at::Tensor& b) {
  const double scale = std::max(1.0, a.abs().max().item<double>());
  return !((a - b).abs().max().item<double>() <= 1e-4 * scale);
}

// Forward and reverse mode must tell the same story, s'(J v) = (J's)'v: an operation whose forward
// derivative is missing or dropped would make curvature too small without a word.
absl::Status CheckDerivatives(const Network& network, const at::Tensor& x) {
  const at::Tensor theta = network.FlatParameters();
  // Different weights for every entry, of the size of one.
  const at::Tensor v = at::cos(at::arange(theta.size(0), theta.options()) * 0.7);
  std::pair<at::Tensor, at::Tensor> dual;
  const absl::Status forward =
      CatchTorch("forward-mode differentiation does not work for this network", [&] {
        dual = network.ForwardAndJvp(x, v);
        return absl::OkStatus();
      });
  if (!forward.ok()) return forward;
  const at::Tensor s =
      at::sin(at::arange(dual.first.numel(), theta.options()) + 1).view(dual.first.sizes());
  const double by_forward = (dual.second * s).sum().item<double>();
  const at::Tensor terms = network.Vjp(dual.first, s).to(at::kDouble) * v.to(at::kDouble);
  const double by_reverse = terms.sum().item<double>(), scale = terms.abs().sum().item<double>();
  if (!(std::abs(by_forward - by_reverse) <= 1e-3 * scale)) {
    return Unsuitable(absl::StrCat(
        "forward- and reverse-mode derivatives disagree (", by_forward, " against ", by_reverse,
        "): an operation of this network has no correct forward-mode derivative"));
  }
  return absl::OkStatus();
}

absl::Status CheckBehaviour(const Network& network) {
  constexpr int64_t kBatch = 3;
  const at::Tensor x = network.TrialInputs(kBatch);
  const at::Tensor f = network.Forward(x);
  const std::vector<int64_t> expected = {kBatch, network.n_outputs()};
  if (f.sizes() != at::IntArrayRef(expected)) {
    return Unsuitable(absl::StrCat("expected outputs of shape ", ShapeString(expected),
                                   " for inputs of shape ", ShapeString(x.sizes().vec()), ", got ",
                                   ShapeString(f.sizes().vec())));
  }
  if (f.scalar_type() != network.dtype()) {
    return Unsuitable(absl::StrCat("outputs have type ", at::toString(f.scalar_type()),
                                   ", parameters ", at::toString(network.dtype())));
  }
  if (!f.isfinite().all().item<bool>())
    return Unsuitable("outputs on a trial input are not finite");
  // Several times: dropout on few units often draws the same mask twice.
  constexpr int kRepetitions = 16;
  for (int i = 0; i < kRepetitions; ++i) {
    if (Differ(f, network.Forward(x))) {
      return Unsuitable(
          "the same input gives different outputs: is dropout left on? Call eval() before "
          "exporting");
    }
  }
  if (Differ(f.narrow(0, 0, 1), network.Forward(x.narrow(0, 0, 1)))) {
    return Unsuitable(
        "the output of an example depends on the others in its batch: is batch norm in training "
        "mode? Call eval() "
        "before exporting");
  }
  return CheckDerivatives(network, x);
}

// Names of the parameters that no reverse pass from the outputs reaches.
std::vector<std::string> UnreachedParameters(const std::vector<Parameter>& parameters,
                                             const at::Tensor& outputs) {
  std::vector<std::string> names;
  std::vector<at::Tensor> leaves;
  for (const Parameter& p : parameters) leaves.push_back(p.value);
  std::vector<at::Tensor> grads(leaves.size());
  if (outputs.requires_grad()) {
    grads = torch::autograd::grad({outputs}, leaves, {at::ones_like(outputs)}, false, false,
                                  /*allow_unused=*/true);
  }
  for (size_t i = 0; i < leaves.size(); ++i) {
    if (!grads[i].defined()) names.push_back(parameters[i].name);
  }
  return names;
}

// Number of elements of the result of every operation in the graph behind `outputs`.
std::vector<int64_t> ResultNumels(const at::Tensor& outputs) {
  std::vector<int64_t> numels;
  for (const torch::autograd::Node* node : GraphNodes(outputs)) {
    for (uint32_t i = 0; i < node->num_inputs(); ++i) {
      numels.push_back(node->input_metadata(i).zeros_like().numel());  // its shape is private
    }
  }
  return numels;
}

}  // namespace

absl::StatusOr<Network> Network::Load(const std::string& path, const std::string& file_name,
                                      const std::vector<int64_t>& input_shape, int64_t n_outputs) {
  LAPLACED_ASSIGN_OR_RETURN(torch::jit::Module module, LoadTorchScript(path, file_name));
  auto network = FromModule(std::move(module), input_shape, n_outputs);
  if (network.ok()) return network;
  return absl::Status(network.status().code(),
                      absl::StrCat(file_name, ": ", network.status().message()));
}

absl::StatusOr<Network> Network::FromModule(torch::jit::Module module,
                                            const std::vector<int64_t>& input_shape,
                                            int64_t n_outputs) {
  return CatchTorch("cannot use this module", [&]() -> absl::StatusOr<Network> {
    module.eval();
    LAPLACED_ASSIGN_OR_RETURN(std::vector<Parameter> parameters, CollectParameters(module));
    Network network;
    network.module_ = std::move(module);
    network.updates_from_itself_ = UpdatesFromItself(network.module_);
    network.parameters_ = std::move(parameters);
    network.input_shape_ = input_shape;
    network.n_outputs_ = n_outputs;
    network.dtype_ = network.parameters_[0].value.scalar_type();
    network.unused_parameters_ =
        UnreachedParameters(network.parameters_, network.ForwardWithGraph(network.TrialInputs(2)));
    if (network.unused_parameters_.size() == network.parameters_.size()) {
      return Unsuitable("the outputs do not depend on the parameters");
    }
    LAPLACED_ASSIGN_OR_RETURN(network.parameters_,
                              CollectParameters(network.module_, network.unused_parameters_));
    const Parameter& last = network.parameters_.back();
    network.n_parameters_ = last.offset + last.value.numel();
    FindPaddingRows(network.ForwardWithGraph(network.TrialInputs(2)), network.parameters_);
    LAPLACED_RETURN_IF_ERROR(CheckBehaviour(network));
    return network;
  });
}

absl::StatusOr<Network> Network::Clone() const {
  return CatchTorch("cannot copy the module", [&]() -> absl::StatusOr<Network> {
    // Copied with gradient mode on, the copies would be functions of the originals, not leaves.
    at::NoGradGuard no_grad;
    Network copy = *this;
    copy.module_ = module_.deepcopy();
    std::vector<std::string> without = unused_parameters_;
    without.insert(without.end(), constant_parameters_.begin(), constant_parameters_.end());
    LAPLACED_ASSIGN_OR_RETURN(copy.parameters_, CollectParameters(copy.module_, without));
    for (size_t i = 0; i < parameters_.size(); ++i) {
      copy.parameters_[i].constant_rows = parameters_[i].constant_rows;
    }
    return copy;
  });
}

Network Network::Restrict(const std::vector<std::string>& names) const {
  const std::unordered_set<std::string> wanted(names.begin(), names.end());
  Network view = *this;
  view.parameters_.clear();
  view.n_parameters_ = 0;
  for (const Parameter& p : parameters_) {
    if (wanted.count(p.name) == 0) {
      view.constant_parameters_.push_back(p.name);
      continue;
    }
    view.parameters_.push_back(p);
    view.parameters_.back().offset = view.n_parameters_;
    view.n_parameters_ += p.value.numel();
  }
  TORCH_CHECK(!wanted.empty() && view.parameters_.size() == wanted.size(),
              "expected names of parameters of the network, found ", view.parameters_.size(),
              " of ", wanted.size());
  return view;
}

at::Tensor Network::Forward(const at::Tensor& x) const {
  at::NoGradGuard no_grad;
  return RunModule(module_, x);
}

at::Tensor Network::ForwardWithGraph(const at::Tensor& x) const {
  at::AutoGradMode with_grad(true);
  at::Tensor f = RunModule(module_, x);
  if (x.size(0) == 1) GuardBatchNormGradients(f);
  return f;
}

std::pair<at::Tensor, at::Tensor> Network::ForwardAndJvp(const at::Tensor& x,
                                                         const at::Tensor& v) const {
  const auto run = [&](bool record) {
    at::AutoGradMode mode(record);
    ForwardAdScope scope;
    ParameterRestorer restorer(parameters_);
    for (const Parameter& p : parameters_) {
      at::Tensor tangent = v.narrow(0, p.offset, p.value.numel()).view(p.value.sizes());
      if (!p.constant_rows.empty()) tangent = tangent.clone();
      for (const int64_t row : p.constant_rows) tangent[row].zero_();
      ParameterRestorer::Set(p,
                             at::_make_dual(p.value, tangent, static_cast<int64_t>(scope.level())));
    }
    const auto [f, jv] =
        at::_unpack_dual(RunModule(module_, x), static_cast<int64_t>(scope.level()));
    if (record && x.size(0) == 1) GuardBatchNormGradients(f);
    return std::make_pair(f, jv.defined() ? jv.detach().clone() : at::zeros_like(f));
  };
  if (!updates_from_itself_) return run(/*record=*/true);
  return {ForwardWithGraph(x), run(/*record=*/false).second};
}

at::Tensor Network::Vjp(const at::Tensor& outputs, const at::Tensor& s) const {
  std::vector<at::Tensor> leaves;
  leaves.reserve(parameters_.size());
  for (const Parameter& p : parameters_) leaves.push_back(p.value);
  const std::vector<at::Tensor> grads =
      torch::autograd::grad({outputs}, leaves, {s}, /*retain_graph=*/false, /*create_graph=*/false,
                            /*allow_unused=*/true);
  at::Tensor flat = at::zeros({n_parameters_}, at::TensorOptions(dtype_));
  for (size_t i = 0; i < grads.size(); ++i) {
    if (!grads[i].defined()) continue;
    flat.narrow(0, parameters_[i].offset, parameters_[i].value.numel()).copy_(grads[i].flatten());
  }
  return flat;
}

at::Tensor Network::FlatParameters() const {
  std::vector<at::Tensor> flat;
  for (const Parameter& p : parameters_) flat.push_back(p.value.detach().flatten());
  return at::cat(flat);
}

int64_t Network::LargestResultPerExample() const {
  // What does not grow with the batch is a parameter or made of parameters.
  const std::vector<int64_t> one = ResultNumels(ForwardWithGraph(TrialInputs(1))),
                             two = ResultNumels(ForwardWithGraph(TrialInputs(2)));
  int64_t largest = n_outputs_;
  for (size_t i = 0; i < std::min(one.size(), two.size()); ++i) {
    largest = std::max(largest, two[i] - one[i]);
  }
  return largest;
}

at::Tensor Network::TrialInputs(int64_t n) const {
  std::vector<int64_t> shape = {n};
  shape.insert(shape.end(), input_shape_.begin(), input_shape_.end());
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t{1});
  return at::rand(shape, generator, at::TensorOptions(dtype_));
}

}  // namespace laplaced
