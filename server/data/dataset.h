// A data set in memory, or a rank's share of one (server/linalg/ranks.h): inputs and targets with
// one row per example, in file precision.
//
// A value that shares its tensors; nothing writes them. Thread-safe to read.
#pragma once

#include <ATen/ATen.h>

#include <string>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "server/linalg/ranks.h"

namespace laplaced {

struct Dataset {
  at::Tensor inputs;   // [N, example shape...], uint8, float32 or float64
  at::Tensor targets;  // [N] int64 labels, or [N, C] floating point
  // Of a share: the number of its first row in the whole, and how many rows the whole has.
  int64_t first = 0;
  absl::optional<int64_t> whole = absl::nullopt;

  int64_t size() const { return inputs.defined() ? inputs.size(0) : 0; }  // rows here
  int64_t total() const { return whole.value_or(size()); }                // rows in the whole

  // Rows here, in the order of `rows` [n] int64.
  Dataset Select(const at::Tensor& rows) const;
  // Rows [begin, end) of those here.
  Dataset Slice(int64_t begin, int64_t end) const;
  // A rank's share of the rows here, which are the whole.
  Dataset PartOf(const Ranks& ranks) const;
  // Where those of `rows` [n] int64, numbers in the whole, are that are here: in their order.
  at::Tensor Here(const at::Tensor& rows) const;
};

// Reads two array files (npy, idx, idx.gz, or an npz of one array). INVALID_ARGUMENT if they have
// no rows or different numbers of them; errors of the file formats otherwise. Integer labels of any
// width become int64.
absl::StatusOr<Dataset> ReadDataset(const std::string& inputs_path,
                                    const std::string& targets_path);

// A rank's share of the rows of two .npy files (ShareOf); no other row is read. Errors likewise.
absl::StatusOr<Dataset> ReadDatasetShare(const std::string& inputs_path,
                                         const std::string& targets_path, int64_t rank,
                                         int64_t size);

// A hash for the inputs of every row: [N] int64. Equal bytes and types have equal hashes.
at::Tensor InputHashes(const Dataset& data);
// How many of the hashes `b` are among `a`.
int64_t SharedHashes(const at::Tensor& a, const at::Tensor& b);

}  // namespace laplaced
