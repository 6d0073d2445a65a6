#include "server/model/self_updates.h"

#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/inliner.h>

#include <string>
#include <unordered_set>
#include <vector>

namespace laplaced {
namespace {

using torch::jit::Block;
using torch::jit::Node;
using torch::jit::Value;

// Whether `from` was computed from `source`.
bool DependsOn(const Value* from, const Value* source) {
  std::vector<const Value*> stack = {from};
  std::unordered_set<const Value*> seen;
  while (!stack.empty()) {
    const Value* value = stack.back();
    stack.pop_back();
    if (value == source) return true;
    if (!seen.insert(value).second) continue;
    const Node* node = value->node();
    for (const Value* input : node->inputs()) stack.push_back(input);
    // Branches and loops.
    for (const Block* block : node->blocks()) {
      for (const Value* output : block->outputs()) stack.push_back(output);
    }
    if (node->kind() == c10::prim::Param && node->owningBlock()->owningNode() != nullptr) {
      for (const Value* input : node->owningBlock()->owningNode()->inputs()) stack.push_back(input);
    }
  }
  return false;
}

bool UpdatesFromItself(const Block& block) {
  for (const Node* node : block.nodes()) {
    for (const Block* inner : node->blocks()) {
      if (UpdatesFromItself(*inner)) return true;
    }
    const std::string name = node->kind().toUnqualString();
    if (!node->kind().is_aten() || name.back() != '_') continue;
    for (size_t i = 1; i < node->inputs().size(); ++i) {
      if (DependsOn(node->input(i), node->input(0))) return true;
    }
  }
  return false;
}

}  // namespace

bool UpdatesFromItself(const torch::jit::Module& module) {
  const auto graph = module.get_method("forward").graph()->copy();
  torch::jit::Inline(*graph);
  return UpdatesFromItself(*graph->block());
}

}  // namespace laplaced
