// The JSON header of a safetensors file, apart from any file: text to values and back.
//
// Internal to this folder; safetensors.h is the interface. Offsets count from the start of the data
// area. Errors have no file name in them. Thread-safe (free functions on values).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "formats/array.h"

namespace laplaced::safetensors_internal {

struct TensorEntry {
  std::string name;
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;
  int64_t begin = 0;
  int64_t end = 0;
};

struct Header {
  std::vector<TensorEntry> tensors;  // by begin
  std::map<std::string, std::string> metadata;
};

// Accepts only tensors that fill `data_bytes` bytes without overlap or gap. DATA_LOSS otherwise.
absl::StatusOr<Header> ParseHeader(absl::string_view text, int64_t data_bytes);

// INVALID_ARGUMENT if a text is not UTF-8.
absl::StatusOr<std::string> SerializeHeader(const Header& header);

}  // namespace laplaced::safetensors_internal
