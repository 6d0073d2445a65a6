// A data set in memory: inputs and targets with one row per example, in file precision.
//
// A value that shares its tensors; nothing writes them. Thread-safe to read.
#pragma once

#include <ATen/ATen.h>

#include <string>

#include "absl/status/statusor.h"

namespace laplaced {

struct Dataset {
  at::Tensor inputs;   // [N, example shape...], uint8, float32 or float64
  at::Tensor targets;  // [N] int64 labels, or [N, C] floating point

  int64_t size() const { return inputs.defined() ? inputs.size(0) : 0; }

  // Rows in the order of `rows` [n] int64.
  Dataset Select(const at::Tensor& rows) const;
  // Rows [begin, end).
  Dataset Slice(int64_t begin, int64_t end) const;
};

// Reads two array files (npy, idx, idx.gz, or an npz of one array). INVALID_ARGUMENT if they have
// no rows or different numbers of them; errors of the file formats otherwise. Integer labels of any
// width become int64.
absl::StatusOr<Dataset> ReadDataset(const std::string& inputs_path,
                                    const std::string& targets_path);

// How many rows of `b` have inputs that some row of `a` has too, byte for byte (by 64-bit hash).
int64_t SharedExamples(const Dataset& a, const Dataset& b);

}  // namespace laplaced
