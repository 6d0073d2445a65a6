// The layer kinds that capture understands: how each turns its input and output gradient into
// per-example gradients.
//
//   linear (addmm, mm, bmm):  dW = sum over rows of g a', db = sum of g
//   convolution 1-d to 3-d:   dW = sum over positions of g x columns(a), db = sum of g; stride,
//                             dilation, groups, zero padding; transposed: a x columns(g)
//   batch, layer, group norm: dgamma = sum of g (a - mean) / sqrt(var + eps), dbeta = sum of g
//   embedding:                row i of dW = sum of g where the index is i, none for padding
//   x * p, x + p, x - p:      dp = sum of g x, or of g, over all dimensions that p is broadcast in
//   prelu:                    dp = sum of g min(x, 0)
//   p.expand, p.repeat:       dp = sum of g over the dimensions with copies
//
// Used by layer_capture.cc only. To teach capture a new kind, add a case to MakeParameterUse.
#pragma once

#include <torch/csrc/autograd/function.h>

#include <memory>
#include <vector>

#include "server/model/batch_layout.h"
#include "server/model/layer_capture.h"

namespace laplaced {

// Where a parameter enters the graph, and what is known of the batch.
struct UseSite {
  std::shared_ptr<torch::autograd::Node> node;
  uint32_t edge = 0;           // of the node, where the parameter arrives
  std::vector<int64_t> shape;  // of the parameter, or of the view of it that arrives
  bool transposed = false;     // arrives as its transpose: `shape` is that before it
  bool repeated = false;       // arrives repeated along a new first dimension
  ExampleOrder order = ExampleOrder::kMajor;
  int64_t examples = 0;  // B
};

struct CapturedUse {
  std::shared_ptr<ParameterUse> use;         // null: the kind of node, or the role, is unknown
  BatchLayout layout = BatchLayout::kMajor;  // of the node's output and so of its gradient
  double macs = 0;  // multiply-adds of one example's forward pass with this parameter
};

CapturedUse MakeParameterUse(const UseSite& site);

}  // namespace laplaced
