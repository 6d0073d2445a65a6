// How a parameter reaches the operation that uses it: directly, or through views of it.
//
// Modules seldom use a parameter as it is registered: linear layers transpose their weight, scales
// are reshaped to broadcast, attention cuts its projection into three. Such views only move
// elements, so that the gradient of the view is the gradient of those elements.
//
// Functions throw LibTorch exceptions. Thread-safe.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/function.h>

#include <memory>
#include <string>
#include <vector>

#include "server/model/layer_capture.h"

namespace laplaced {

struct ParameterView {
  c10::TensorImpl* parameter = nullptr;  // null: no parameter, or not by views alone
  std::vector<int64_t> shape;            // as it arrives, before the transposition if there is one
  bool transposed = false;               // a matrix that passes t() last
  bool repeated = false;  // the matrix, transposed or not, repeated along a new first dimension
  // Where the parameter keeps each element of the flattened `shape`, int64; undefined if the view
  // is the whole parameter in its own order.
  at::Tensor positions;
  std::string path;  // names of the views, for comparison
};

// What the operation makes of a transposition or a repetition just before it.
enum class ViewedAs {
  kTensor,    // nothing: transpositions are views like others, repetitions end the search
  kMatrix,    // tells transpositions
  kMatrices,  // tells both
};

// The parameter behind an edge of the autograd graph.
ParameterView ParameterBehind(const torch::autograd::Edge& edge, ViewedAs viewed_as);

// Shape of result number `input_nr` of the operation that made the node.
std::vector<int64_t> ResultShape(const torch::autograd::Node& node, uint32_t input_nr = 0);

// `use`, of a part of a parameter, as a use of the whole parameter, whose other elements have no
// gradient. `positions` as above.
std::shared_ptr<ParameterUse> UseOfWhole(std::shared_ptr<ParameterUse> use, at::Tensor positions,
                                         int64_t numel);

}  // namespace laplaced
