#include "server/model/parameter_selection.h"

#include <torch/autograd.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>

#include <algorithm>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "server/model/field_error.h"

namespace laplaced {
namespace {

using torch::autograd::Node;

// Greedy: on a mismatch the last * takes one character more.
bool Matches(absl::string_view pattern, absl::string_view name) {
  size_t p = 0, n = 0, star = absl::string_view::npos, retry = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      retry = n;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p;
      ++n;
    } else if (star != absl::string_view::npos) {
      p = star + 1;
      n = ++retry;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

absl::Status NoMatch(const Network& network, size_t index, const std::string& pattern) {
  constexpr size_t kShown = 8;
  std::vector<std::string> names;
  for (const Parameter& p : network.parameters()) names.push_back(p.name);
  const size_t more = names.size() - std::min(names.size(), kShown);
  names.resize(names.size() - more);
  std::string message = absl::StrCat("\"", pattern, "\" matches no parameter; there are ",
                                     absl::StrJoin(names, ", "));
  if (more > 0) absl::StrAppend(&message, " and ", more, " more");
  for (const std::string& name : network.unused_parameters()) {
    if (!Matches(pattern, name)) continue;
    absl::StrAppend(&message, " (the outputs do not depend on ", name, ")");
    break;
  }
  return FieldError(absl::StrCat("options.parameters[", index, "]"), message);
}

// Nodes that only give a tensor another layout, shape or type.
bool IsLayout(const Node& node) {
  static const auto* names = new std::unordered_set<std::string>{
      "TBackward0",         "TransposeBackward0",  "PermuteBackward0",
      "ViewBackward0",      "UnsafeViewBackward0", "ExpandBackward0",
      "CloneBackward0",     "SqueezeBackward0",    "ReshapeAliasBackward0",
      "UnsqueezeBackward0", "SqueezeBackward1",    "ToCopyBackward0",
      "NumpyTBackward0",    "TransposeBackward1",  "SelectBackward0",
      "SliceBackward0",
  };
  return node.num_outputs() == 1 && names->count(node.name()) > 0;
}

// The first node behind `edge` that is more than a layout; null if the edge leads nowhere.
Node* Behind(const torch::autograd::Edge& edge) {
  Node* node = edge.function.get();
  while (node != nullptr && IsLayout(*node)) node = node->next_edge(0).function.get();
  return node;
}

class LastLayerSearch {
 public:
  explicit LastLayerSearch(const Network& network) {
    for (size_t i = 0; i < network.parameters().size(); ++i) {
      index_[network.parameters()[i].value.unsafeGetTensorImpl()] = i;
    }
  }

  // Indices of the parameters nearest to the outputs behind `root`.
  std::set<size_t> Run(Node* root) {
    std::vector<Node*> level = {root};
    while (!level.empty() && found_.empty()) {
      std::vector<Node*> next;
      for (Node* node : level) Visit(*node, next);
      level = std::move(next);
    }
    return found_;
  }

 private:
  void Visit(const Node& node, std::vector<Node*>& next) {
    std::vector<Node*> others;
    const bool found = Collect(node, others);
    for (Node* other : others) {
      // A bias: what it is added to belongs to the layer.
      std::vector<Node*> unused;
      if (found && absl::StartsWith(node.name(), "AddBackward")) Collect(*other, unused);
      if (seen_.insert(other).second) next.push_back(other);
    }
  }

  // Adds the parameters among the node's inputs to found_ and the other inputs to `others`; whether
  // there were parameters.
  bool Collect(const Node& node, std::vector<Node*>& others) {
    bool found = false;
    for (uint32_t i = 0; i < node.num_outputs(); ++i) {
      Node* behind = Behind(node.next_edge(i));
      if (const auto* leaf = dynamic_cast<const torch::autograd::AccumulateGrad*>(behind)) {
        const auto it = index_.find(leaf->variable.unsafeGetTensorImpl());
        if (it == index_.end()) continue;  // a constant
        found_.insert(it->second);
        found = true;
      } else if (behind != nullptr) {
        others.push_back(behind);
      }
    }
    return found;
  }

  std::unordered_map<c10::TensorImpl*, size_t> index_;
  std::unordered_set<Node*> seen_;
  std::set<size_t> found_;
};

// The module's part of a parameter's name, "features.0."; empty for the root's own.
std::string Prefix(const std::string& name) {
  const size_t dot = name.rfind('.');
  return dot == std::string::npos ? "" : name.substr(0, dot + 1);
}

}  // namespace

absl::StatusOr<std::vector<std::string>> MatchParameters(const Network& network,
                                                         const std::vector<std::string>& patterns) {
  std::vector<bool> used(patterns.size(), false);
  std::vector<std::string> names;
  for (const Parameter& parameter : network.parameters()) {
    bool wanted = patterns.empty();
    for (size_t i = 0; i < patterns.size(); ++i) {
      if (!Matches(patterns[i], parameter.name)) continue;
      used[i] = wanted = true;
    }
    if (wanted) names.push_back(parameter.name);
  }
  for (size_t i = 0; i < patterns.size(); ++i) {
    if (!used[i]) return NoMatch(network, i, patterns[i]);
  }
  return names;
}

std::vector<std::string> LastLayerParameters(const Network& network) {
  const at::Tensor outputs = network.ForwardWithGraph(network.TrialInputs(1));
  const std::set<size_t> found = LastLayerSearch(network).Run(outputs.grad_fn().get());
  std::set<std::string> prefixes;
  for (size_t i : found) prefixes.insert(Prefix(network.parameters()[i].name));
  prefixes.erase("");
  std::vector<std::string> names;
  for (size_t i = 0; i < network.parameters().size(); ++i) {
    const std::string& name = network.parameters()[i].name;
    if (found.count(i) > 0 || prefixes.count(Prefix(name)) > 0) names.push_back(name);
  }
  return names;
}

}  // namespace laplaced
