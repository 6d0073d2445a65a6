#include "formats/array.h"

#include <new>
#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace laplaced {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "the file formats are copied to and from memory as little-endian values");

constexpr int64_t kMaxProduct = int64_t{1} << 62;

struct DTypeRow {
  DType dtype;
  const char* name;
  int64_t size;
};

constexpr DTypeRow kDTypes[] = {
    {DType::kFloat32, "float32", 4}, {DType::kFloat64, "float64", 8}, {DType::kUint8, "uint8", 1},
    {DType::kInt32, "int32", 4},     {DType::kInt64, "int64", 8},
};

const DTypeRow& Row(DType dtype) { return kDTypes[static_cast<size_t>(dtype)]; }

// The product of `factor` and all sizes, zeros counted as one.
absl::StatusOr<int64_t> BoundedProduct(int64_t factor, const std::vector<int64_t>& shape) {
  int64_t product = factor;
  for (int64_t size : shape) {
    if (size < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("shape ", ShapeString(shape), " has a negative size"));
    }
    if (size > 0 && product > kMaxProduct / size) {
      return absl::InvalidArgumentError(
          absl::StrCat("shape ", ShapeString(shape), " is too large"));
    }
    if (size > 0) product *= size;
  }
  return product;
}

bool HasZero(const std::vector<int64_t>& shape) {
  for (int64_t size : shape) {
    if (size == 0) return true;
  }
  return false;
}

}  // namespace

int64_t ElementSize(DType dtype) { return Row(dtype).size; }

std::string DTypeName(DType dtype) { return Row(dtype).name; }

absl::StatusOr<DType> DTypeFromName(absl::string_view name) {
  for (const DTypeRow& row : kDTypes) {
    if (name == row.name) return row.dtype;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown element type '", name, "', expected one of ",
                   absl::StrJoin(kDTypes, ", ", [](std::string* out, const DTypeRow& row) {
                     absl::StrAppend(out, row.name);
                   })));
}

std::string ShapeString(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::StatusOr<int64_t> NumElements(const std::vector<int64_t>& shape) {
  absl::StatusOr<int64_t> product = BoundedProduct(1, shape);
  if (product.ok() && HasZero(shape)) return 0;
  return product;
}

absl::StatusOr<int64_t> NumBytes(DType dtype, const std::vector<int64_t>& shape) {
  absl::StatusOr<int64_t> product = BoundedProduct(ElementSize(dtype), shape);
  if (product.ok() && HasZero(shape)) return 0;
  return product;
}

absl::StatusOr<Array> AllocateArray(DType dtype, const std::vector<int64_t>& shape,
                                    int64_t max_bytes) {
  absl::StatusOr<int64_t> bytes = NumBytes(dtype, shape);
  if (!bytes.ok()) return bytes.status();
  if (*bytes > max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(DTypeName(dtype), " array of shape ",
                                                   ShapeString(shape), " has ", *bytes,
                                                   " bytes, more than the limit of ", max_bytes));
  }
  Array array;
  array.dtype = dtype;
  array.shape = shape;
  try {
    array.bytes.resize(static_cast<size_t>(*bytes));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrCat("not enough memory for an array of ", *bytes, " bytes"));
  } catch (const std::length_error&) {
    return absl::ResourceExhaustedError(
        absl::StrCat("an array of ", *bytes, " bytes does not fit into memory"));
  }
  return array;
}

}  // namespace laplaced
