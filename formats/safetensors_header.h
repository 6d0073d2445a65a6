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
#include "formats/stored_element.h"

namespace laplaced::safetensors_internal {

struct TensorEntry {
  std::string name;
  DType dtype = DType::kFloat32;  // what it is read as
  StoredElement stored = StoredElement::kFloat32;
  std::vector<int64_t> shape;
  int64_t begin = 0;
  int64_t end = 0;
};

struct Header {
  std::vector<TensorEntry> tensors;  // by begin
  std::map<std::string, std::string> metadata;
};

// A whole file, taken apart.
struct Parts {
  absl::string_view header;
  absl::string_view data;
};

// DATA_LOSS unless the file has room for the length of the header and for as much header; more than
// kMaxHeaderBytes are refused, too.
absl::StatusOr<Parts> SplitFile(absl::string_view file);

inline constexpr int64_t kLengthBytes = 8;
inline constexpr int64_t kMaxHeaderBytes = int64_t{16} << 20;

// Which element types a reader takes: those of Array alone, or every StoredElement.
enum class Elements { kOfArrays, kAll };

// Accepts only tensors that fill `data_bytes` bytes without overlap or gap. DATA_LOSS otherwise.
absl::StatusOr<Header> ParseHeader(absl::string_view text, int64_t data_bytes,
                                   Elements elements = Elements::kOfArrays);

// INVALID_ARGUMENT if a text is not UTF-8.
absl::StatusOr<std::string> SerializeHeader(const Header& header);

}  // namespace laplaced::safetensors_internal
