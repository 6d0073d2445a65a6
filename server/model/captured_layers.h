// The layer kinds that capture understands: how each turns its input and output gradient into
// per-example gradients.
//
//   linear (addmm, mm):        dW = g a', db = g;            a [B, in] or [B * T, in] with T rows
//   per example, summed convolution 1-d and 2-d:   dW = sum over positions of g x im2col(a), db =
//   sum of g; stride, dilation, groups, zero padding batch norm in evaluation:  dgamma = sum of g
//   (a - mean) / sqrt(var + eps), dbeta = sum of g
//
// Used by layer_capture.cc only. To teach capture a new kind, add a case to MakeParameterUse.
#pragma once

#include <torch/csrc/autograd/function.h>

#include <memory>

#include "server/model/layer_capture.h"

namespace laplaced {

// How the rows of a node's input belong to examples.
struct BatchLayout {
  int64_t examples;  // B
};

// How `node` uses the parameter at the end of its edge number `edge`; null if the kind of node or
// the role is unknown. `transposed` says that the parameter passes through t() on its way.
std::shared_ptr<ParameterUse> MakeParameterUse(const std::shared_ptr<torch::autograd::Node>& node,
                                               uint32_t edge, bool transposed,
                                               const BatchLayout& layout,
                                               const at::Tensor& parameter);

}  // namespace laplaced
