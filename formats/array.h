// A typed n-dimensional array in memory: what every file format of this folder is read into and
// written from.
//
// A plain value without LibTorch or gRPC, so that server and command line share one parser of
// untrusted files. Elements are row-major (outermost dimension first), native byte order (only
// little-endian hosts are supported), without padding. Not synchronised.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace laplaced {

enum class DType { kFloat32, kFloat64, kUint8, kInt32, kInt64 };

// What readers of array files accept at most, counted in bytes of array data, unless told
// otherwise.
inline constexpr int64_t kDefaultMaxArrayBytes = int64_t{8} << 30;

// Bytes of one element.
int64_t ElementSize(DType dtype);

// "float32", "float64", "uint8", "int32", "int64".
std::string DTypeName(DType dtype);

// The inverse of DTypeName. INVALID_ARGUMENT lists the names that exist.
absl::StatusOr<DType> DTypeFromName(absl::string_view name);

// "[2, 28, 28]".
std::string ShapeString(const std::vector<int64_t>& shape);

// Product of all sizes; 1 for a scalar. Error if a size is negative or the product exceeds 2^62;
// for that check a size of zero counts as one, so that no partial product can overflow either.
absl::StatusOr<int64_t> NumElements(const std::vector<int64_t>& shape);

// NumElements times ElementSize, with the same bound on the number of bytes.
absl::StatusOr<int64_t> NumBytes(DType dtype, const std::vector<int64_t>& shape);

struct Array {
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;
  std::string bytes;  // NumBytes(dtype, shape) of them
  // Elements of a file that are true or false: kUint8 of 1s and 0s, and no pixels.
  bool boolean = false;

  // Size of the first dimension; 0 for a scalar.
  int64_t rows() const { return shape.empty() ? 0 : shape[0]; }

  // The elements as T, which must be the C++ type that `dtype` names.
  template <typename T>
  const T* data() const {
    return reinterpret_cast<const T*>(bytes.data());
  }
  template <typename T>
  T* data() {
    return reinterpret_cast<T*>(bytes.data());
  }
};

// An array of zeros. INVALID_ARGUMENT if it would have more than `max_bytes`, RESOURCE_EXHAUSTED if
// there is not enough memory. The caller must have checked a size that came from a file against
// what the file can hold.
absl::StatusOr<Array> AllocateArray(DType dtype, const std::vector<int64_t>& shape,
                                    int64_t max_bytes = kDefaultMaxArrayBytes);

}  // namespace laplaced
