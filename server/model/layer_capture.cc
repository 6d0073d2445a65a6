#include "server/model/layer_capture.h"

#include <ATen/CPUGeneratorImpl.h>
#include <torch/autograd.h>

#include <algorithm>
#include <map>
#include <unordered_map>
#include <unordered_set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/model/captured_layers.h"
#include "server/model/parameter_view.h"
#include "server/model/reverse_sweep.h"
#include "server/model/torch_status.h"

namespace laplaced {
namespace {

using torch::autograd::Node;

struct FoundUse {
  std::shared_ptr<Node> node;
  size_t parameter;
  std::string kind;  // of node, the parameter's role in it, and the views on the way
  CapturedUse made;  // without a use: the node is of no known kind
};

ViewedAs RoleOf(const std::string& kind, uint32_t edge) {
  if ((kind == "AddmmBackward0" && edge == 2) || (kind == "MmBackward0" && edge == 1))
    return ViewedAs::kMatrix;
  return kind == "BmmBackward0" && edge == 1 ? ViewedAs::kMatrices : ViewedAs::kTensor;
}

// Every use of every parameter, or of one alone, in the graph behind `outputs`, of `batch` examples
// that are ordered as `order` says for each parameter.
std::vector<FoundUse> FindUses(const Network& network, const at::Tensor& outputs, int64_t batch,
                               const std::vector<ExampleOrder>& order,
                               absl::optional<size_t> only = absl::nullopt) {
  std::unordered_map<c10::TensorImpl*, size_t> index;
  for (size_t i = 0; i < network.parameters().size(); ++i) {
    if (only && i != *only) continue;
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
    const std::string kind = node->name();
    for (uint32_t i = 0; i < node->num_outputs(); ++i) {
      const torch::autograd::Edge& edge = node->next_edge(i);
      if (edge.function == nullptr) continue;
      ParameterView view = ParameterBehind(edge, RoleOf(kind, i));
      if (view.parameter == nullptr) {
        stack.push_back(edge.function);
        continue;
      }
      const auto it = index.find(view.parameter);
      if (it == index.end()) continue;
      CapturedUse made = MakeParameterUse({node, i, std::move(view.shape), view.transposed,
                                           view.repeated, order[it->second], batch});
      if (made.use != nullptr && view.positions.defined()) {
        made.use = UseOfWhole(std::move(made.use), view.positions,
                              network.parameters()[it->second].value.numel());
      }
      found.push_back({node, it->second, absl::StrCat(kind, ".", i, view.path), std::move(made)});
    }
  }
  return found;
}

// How each of `n` parameters is used: the kinds of its uses, sorted; empty if it is not.
std::vector<std::string> Signatures(const std::vector<FoundUse>& found, size_t n) {
  std::vector<std::vector<std::string>> kinds(n);
  for (const FoundUse& use : found) kinds[use.parameter].push_back(use.kind);
  std::vector<std::string> signatures;
  for (auto& uses : kinds) {
    std::sort(uses.begin(), uses.end());
    signatures.push_back(absl::StrJoin(uses, " "));
  }
  return signatures;
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

// Inputs for the decision: up to 2, so that token ids among them are not all zero, if the network
// takes that.
at::Tensor TrialBatch(const Network& network, int64_t n) {
  const at::Tensor x = network.TrialInputs(n);
  bool finite = false;
  const absl::Status taken = CatchTorch("wider inputs", [&] {
    finite = network.Forward(x * 2).isfinite().all().item<bool>();
    return absl::OkStatus();
  });
  return taken.ok() && finite ? x * 2 : x;
}

// A few combinations of the outputs that no gradient vanishes in by coincidence, [C, R].
at::Tensor TrialSeeds(const Network& network) {
  constexpr int64_t kMost = 4;
  const int64_t c = network.n_outputs();
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t{2});
  return at::randn({c, std::min(c, kMost)}, generator, at::TensorOptions(network.dtype()));
}

// [C, R] -> [batch, C, R]
at::Tensor Repeated(const at::Tensor& seeds, int64_t batch) {
  return seeds.unsqueeze(0).expand({batch, seeds.size(0), seeds.size(1)});
}

// Gradients of every parameter by plain reverse passes, one example at a time: [B, R, numel] each.
std::vector<at::Tensor> ReversePassPerExample(const Network& network, const at::Tensor& x,
                                              const at::Tensor& seeds) {
  std::vector<at::Tensor> leaves;
  for (const Parameter& p : network.parameters()) leaves.push_back(p.value);
  std::vector<std::vector<at::Tensor>> rows(leaves.size());
  for (int64_t b = 0; b < x.size(0); ++b) {
    const auto gradients =
        RowsOfJacobian(network.ForwardWithGraph(x.narrow(0, b, 1)), leaves, seeds);
    for (size_t i = 0; i < leaves.size(); ++i) rows[i].push_back(gradients[i]);
  }
  std::vector<at::Tensor> stacked;
  for (const auto& parameter : rows) stacked.push_back(at::stack(parameter));
  return stacked;
}

// What comparisons on trial batches say about a parameter: of several, the last of these counts.
enum class Verdict {
  kSilent,  // all gradients are zero or rounding errors: nothing to compare
  kAgrees,
  kDisagrees,
};

// The captured gradients of x against the first of `expected`; adds to `verdicts`.
void Compare(const Network& network, const CapturePlan& plan, const at::Tensor& x,
             const at::Tensor& seeds, const std::vector<at::Tensor>& expected,
             std::vector<Verdict>& verdicts) {
  const int64_t batch = x.size(0);
  const CapturedForward forward = ForwardCaptured(network, x, plan);
  std::vector<at::Tensor> captured(plan.captured.size());
  forward.Sweep(Repeated(seeds, batch), [&](size_t n, const at::Tensor& grads) {
    for (const auto& [parameter, use] : forward.nodes[n].uses) {
      const at::Tensor jacobian = use->Jacobian(grads, 0, batch);
      captured[parameter] =
          captured[parameter].defined() ? captured[parameter] + jacobian : jacobian;
    }
  });
  const bool exact = network.dtype() == at::kDouble;
  const double tolerance = exact ? 1e-9 : 1e-3, rounding = exact ? 1e-13 : 1e-5;
  double largest = 0;
  for (const at::Tensor& e : expected) largest = std::max(largest, e.abs().max().item<double>());
  for (size_t i = 0; i < verdicts.size(); ++i) {
    if (!forward.captured[i]) {
      verdicts[i] = Verdict::kDisagrees;
      continue;
    }
    const at::Tensor truth = expected[i].narrow(0, 0, batch);
    const at::Tensor mine = captured[i].defined() ? captured[i] : at::zeros_like(truth);
    const at::Tensor scales = truth.abs().amax({1, 2});
    const double scale = scales.max().item<double>();
    const bool close = ((mine - truth).abs().amax({1, 2}) <= scales * tolerance).all().item<bool>();
    const double most = std::max(scale, mine.abs().max().item<double>());
    Verdict verdict = Verdict::kDisagrees;
    if (close && scale > 0) {
      verdict = Verdict::kAgrees;
    } else if (most <= rounding * largest) {
      verdict = Verdict::kSilent;
    }
    verdicts[i] = std::max(verdicts[i], verdict);
  }
}

// Reads every parameter that was silent as the parameter beside it at the same node, a weight
// beside its bias, if that one agrees, at every use.
void AdoptSilent(const std::vector<FoundUse>& found, const std::vector<Verdict>& verdicts,
                 CapturePlan& plan) {
  std::unordered_map<Node*, size_t> agreeing;
  for (const FoundUse& use : found) {
    if (verdicts[use.parameter] == Verdict::kAgrees) agreeing[use.node.get()] = use.parameter;
  }
  for (size_t i = 0; i < verdicts.size(); ++i) {
    if (verdicts[i] != Verdict::kSilent) continue;
    std::vector<ExampleOrder> orders;
    bool all = true;
    for (const FoundUse& use : found) {
      if (use.parameter != i) continue;
      const auto beside = agreeing.find(use.node.get());
      all = all && beside != agreeing.end();
      if (all) orders.push_back(plan.order[beside->second]);
    }
    plan.captured[i] = all && std::equal(orders.begin() + 1, orders.end(), orders.begin());
    if (plan.captured[i]) plan.order[i] = orders.front();
  }
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
  ReverseSweep(outputs, all, wanted, [&](size_t n, const at::Tensor& grads) {
    // With the seeds last they are part of what each example has.
    visit(n, ByExample(grads.movedim(0, -1), batch, nodes[n].layout).movedim(-1, 1));
  });
}

CapturedForward ForwardCaptured(const Network& network, const at::Tensor& x,
                                const CapturePlan& plan) {
  CapturedForward forward;
  forward.batch = x.size(0);
  forward.outputs = network.ForwardWithGraph(x);
  std::vector<FoundUse> uses = FindUses(network, forward.outputs, forward.batch, plan.order);
  const std::vector<std::string> signatures = Signatures(uses, plan.captured.size());
  forward.captured = plan.captured;
  for (size_t i = 0; i < signatures.size(); ++i) {
    if (plan.uses[i].count(signatures[i]) == 0) forward.captured[i] = false;
  }
  for (const FoundUse& use : uses) {
    if (use.made.use == nullptr) forward.captured[use.parameter] = false;
  }
  std::map<std::pair<Node*, BatchLayout>, size_t> position;
  for (FoundUse& use : uses) {
    if (!forward.captured[use.parameter]) continue;
    const auto [it, inserted] =
        position.emplace(std::make_pair(use.node.get(), use.made.layout), forward.nodes.size());
    if (inserted) {
      forward.nodes.push_back({use.node, use.made.layout, {}});
    }
    forward.nodes[it->second].uses.emplace_back(use.parameter, std::move(use.made.use));
  }
  return forward;
}

LayerForward ForwardWithInputOf(const Network& network, const at::Tensor& x,
                                const CapturePlan& plan, size_t weight) {
  at::NoGradGuard no_grad;
  const at::Tensor outputs = network.ForwardWithGraph(x);
  LayerForward forward{outputs.detach(), {}};
  if (!plan.captured[weight]) return forward;
  const auto uses = FindUses(network, outputs, x.size(0), plan.order, weight);
  if (uses.size() != 1 || uses[0].made.use == nullptr) return forward;
  forward.input = uses[0].made.use->MeanInput();
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
  // A single example, because LibTorch has other paths for it, and two sizes without a common
  // factor: a dimension that is as long as the batch by coincidence is so once at most.
  constexpr int64_t kBatches[] = {1, 2, 5};
  const at::Tensor x = TrialBatch(network, 5), seeds = TrialSeeds(network);
  const size_t n = network.parameters().size();
  CapturePlan plan;
  plan.captured.assign(n, true);
  plan.order.assign(n, ExampleOrder::kMajor);
  plan.uses.resize(n);
  for (const int64_t batch : kBatches) {
    const at::Tensor outputs = network.ForwardWithGraph(x.narrow(0, 0, batch));
    const auto signatures = Signatures(FindUses(network, outputs, batch, plan.order), n);
    for (size_t i = 0; i < n; ++i) {
      if (signatures[i].empty()) plan.captured[i] = false;
      plan.uses[i].insert(signatures[i]);
    }
  }

  // Trust, but verify: the captured gradients against plain reverse passes, example by example.
  const std::vector<at::Tensor> expected = ReversePassPerExample(network, x, seeds);
  std::vector<Verdict> verdicts;
  for (const ExampleOrder next : {ExampleOrder::kMinor, ExampleOrder::kMajor}) {
    verdicts.assign(n, Verdict::kSilent);
    for (const int64_t batch : kBatches) {
      Compare(network, plan, x.narrow(0, 0, batch), seeds, expected, verdicts);
    }
    for (size_t i = 0; i < n; ++i) {
      if (verdicts[i] != Verdict::kAgrees) plan.order[i] = next;
    }
  }
  for (size_t i = 0; i < n; ++i) {
    plan.captured[i] = plan.captured[i] && verdicts[i] == Verdict::kAgrees;
  }
  AdoptSilent(FindUses(network, network.ForwardWithGraph(x), x.size(0), plan.order), verdicts,
              plan);

  const CapturedForward forward = ForwardCaptured(network, x, plan);
  forward.Sweep(Repeated(seeds, x.size(0)), [&](size_t, const at::Tensor& grads) {
    const int64_t numel = grads.numel() / (x.size(0) * seeds.size(1));
    plan.gradient_numel += numel;
    plan.largest_gradient = std::max(plan.largest_gradient, numel);
  });
  for (const FoundUse& found : FindUses(network, forward.outputs, x.size(0), plan.order)) {
    if (plan.captured[found.parameter]) plan.forward_macs += found.made.macs;
  }
  return plan;
}

}  // namespace laplaced
