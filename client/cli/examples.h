// Reads what users have - .npy, .npz and IDX files, ranges of rows - into the arrays that a model
// takes.
//
// In a .npz file inputs are called `x` or `inputs` and targets `y`, `targets` or `labels`; a file
// that holds one array is taken for what it is asked for. Other arrays may be of any kind: they are
// not read, and of those that are, only the rows that are wanted are kept. Errors: those of the
// file, and INVALID_ARGUMENT that names the file, what was expected and what it holds. Free
// functions; thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "client/cpp/types.h"

namespace laplace::cli {

// Rows [begin, end); end < 0 means to the last one.
struct RowRange {
  int64_t begin = 0;
  int64_t end = -1;
};

// "0:50000", "50000:", ":100". INVALID_ARGUMENT for anything else.
absl::StatusOr<RowRange> ParseRowRange(const std::string& text);

struct ExampleFiles {
  std::string inputs;   // also "INPUTS,TARGETS"
  std::string targets;  // empty: in the same file, if anywhere
  RowRange rows;
  bool inputs_only = false;  // targets in the same file are left out
};

struct Examples {
  client::Array inputs;
  absl::optional<client::Array> targets;
};

// Inputs and, if there are any, as many targets; at least one row.
absl::StatusOr<Examples> ReadExamples(const ExampleFiles& files);

// Rows [begin, begin + count) of an array; the range must lie inside.
client::Array SliceRows(const client::Array& array, int64_t begin, int64_t count);

// Gives examples the model's input shape where only dimensions of size 1 have to be added or
// dropped
// ([N, 28, 28] for a model of [1, 28, 28]), which moves no element; takes one example without a
// batch dimension for a batch of one. INVALID_ARGUMENT for any other shape, even one with as many
// elements, and for element types that the model cannot take, such as bool. `name` is for messages.
absl::Status ShapeForModel(const client::Model& model, const std::string& name,
                           client::Array& inputs);

// Targets as the model's likelihood wants them. Gaussian: [N] becomes [N, 1]. Bernoulli: 0s and 1s
// of any type become float32 [N, C], also from [N] if C is 1; INVALID_ARGUMENT names the row of
// anything else. Others stay as they are.
absl::Status ShapeTargetsForModel(const client::Model& model, client::Array& targets);

// Labels as numbers; INVALID_ARGUMENT if they are not integers in [0, n_classes).
absl::StatusOr<std::vector<int64_t>> ClassLabels(const client::Array& targets, int64_t n_classes);

}  // namespace laplace::cli
