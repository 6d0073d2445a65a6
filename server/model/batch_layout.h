// Where the examples of a batch stand in a tensor inside the network, and how to bring them to the
// front.
//
// A network's inputs are [B, ...], its hidden tensors need not be: a linear layer over a sequence
// sees rows, and sequence-first code (attention with its transpose(0, 1)) puts the batch second.
// Functions of their arguments; thread-safe.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

namespace laplaced {

// Which index runs faster where examples and their rows meet: decided for each parameter.
enum class ExampleOrder {
  kMajor,  // the rows of an example stand together: row = n * T + t
  kMinor,  // a row of every example, then the next row: row = t * B + n
};

// The same for one tensor of B examples with T rows each.
enum class BatchLayout {
  kMajor,   // [B * T, rest...]
  kMinor,   // [T * B, rest...]
  kSecond,  // [T, B, rest...]
};

// The layout of a tensor that has `leading` dimensions for rows and examples, [T, B] when they are
// two or more and examples are minor.
BatchLayout LayoutOf(ExampleOrder order, int64_t leading);

// Whether a tensor of these sizes can hold `examples` examples in this layout.
bool HoldsExamples(at::IntArrayRef sizes, int64_t examples, BatchLayout layout);

// [examples, T, rest...]; without the dimension T if the rows of an example were flattened and it
// has only one. REQUIRES: HoldsExamples.
at::Tensor ByExample(const at::Tensor& t, int64_t examples, BatchLayout layout);

}  // namespace laplaced
