// Content-derived id of a data set, computed the same way by client (to skip an upload) and server
// (to name it).
//
// id = "sha256-" + hex(SHA-256(header text || SHA-256(all input bytes) || SHA-256(all target
// bytes))), where the header text is
// "laplaced-dataset-1\n<input dtype> <example shape>\n<target dtype> <target shape>\n<rows>\n" with
// shapes as in ShapeString, the inner digests are 32 raw bytes, and the values are little-endian
// rows in order. Feeding the rows in chunks of any size gives the same id. One hasher belongs to
// one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "formats/array.h"

namespace laplaced {

struct DatasetHeader {
  DType input_dtype = DType::kFloat32;
  std::vector<int64_t> example_shape;  // shape of one input
  DType target_dtype = DType::kInt64;
  std::vector<int64_t> target_shape;  // shape of one target; empty for class labels
  int64_t n_rows = 0;
};

// True for "sha256-" and 64 lower-case hexadecimal digits.
bool IsDatasetId(absl::string_view id);

class DatasetHasher {
 public:
  explicit DatasetHasher(const DatasetHeader& header);
  ~DatasetHasher();

  void Update(const void* inputs, size_t input_bytes, const void* targets, size_t target_bytes);
  // Call once, at the end.
  std::string Finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace laplaced
