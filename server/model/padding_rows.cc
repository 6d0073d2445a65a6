#include "server/model/padding_rows.h"

#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>

#include "server/model/graph_nodes.h"
#include "server/model/symbolic_int.h"

namespace laplaced {
namespace {

using torch::autograd::Node;

// The row of `weight`'s embedding at this node; -1 if there is none.
int64_t PaddingRow(Node& node, const at::Tensor& weight) {
  if (node.name() != "EmbeddingBackward0") return -1;
  const auto* leaf =
      dynamic_cast<torch::autograd::AccumulateGrad*>(node.next_edge(0).function.get());
  if (leaf == nullptr || !leaf->variable.is_same(weight)) return -1;
  return PlainInt(static_cast<torch::autograd::generated::EmbeddingBackward0&>(node).padding_idx);
}

}  // namespace

void FindPaddingRows(const at::Tensor& outputs, std::vector<Parameter>& parameters) {
  for (Node* node : GraphNodes(outputs)) {
    for (Parameter& p : parameters) {
      const int64_t row = PaddingRow(*node, p.value);
      std::vector<int64_t>& rows = p.constant_rows;
      if (row >= 0 && std::find(rows.begin(), rows.end(), row) == rows.end()) rows.push_back(row);
    }
  }
}

}  // namespace laplaced
