#include "server/rpc/tensor_codec.h"

#include "absl/strings/str_cat.h"
#include "server/model/field_error.h"

namespace laplaced {
namespace {

using laplace::v1::DataType;
using laplace::v1::Tensor;

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "raw_values are little-endian and are used in place");

// More dimensions than any network takes; bounds the work and the length of messages.
constexpr int kMaxDimensions = 16;

std::string DataTypeName(DataType dtype) {
  const std::string name = laplace::v1::DataType_Name(dtype);
  return name.empty() ? absl::StrCat("the unknown number ", static_cast<int>(dtype)) : name;
}

// The tensor's shape; every size is at least 1 and the bytes fit an int64.
absl::StatusOr<std::vector<int64_t>> ReadShape(const Tensor& tensor, DType dtype,
                                               const std::string& field) {
  const std::string shape_field = absl::StrCat(field, ".shape");
  if (tensor.shape_size() > kMaxDimensions) {
    return FieldError(shape_field, absl::StrCat("expected at most ", kMaxDimensions,
                                                " dimensions, got ", tensor.shape_size()));
  }
  std::vector<int64_t> shape(tensor.shape().begin(), tensor.shape().end());
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] < 1) {
      return FieldError(absl::StrCat(shape_field, "[", i, "]"),
                        absl::StrCat("expected a size of at least 1, got ", shape[i], " in shape ",
                                     ShapeString(shape)));
    }
  }
  const absl::StatusOr<int64_t> elements = NumElements(shape);
  if (!elements.ok() || *elements > (int64_t{1} << 62) / ElementSize(dtype)) {
    return FieldError(shape_field, absl::StrCat("expected a shape whose elements can be counted, ",
                                                "got ", ShapeString(shape)));
  }
  return shape;
}

absl::Status WrongCount(const std::string& field, int64_t expected, int64_t got,
                        absl::string_view unit, const std::vector<int64_t>& shape) {
  return FieldError(field, absl::StrCat("expected ", expected, " ", unit, " for shape ",
                                        ShapeString(shape), ", got ", got));
}

}  // namespace

absl::StatusOr<DType> ToDType(DataType dtype, const std::string& field) {
  switch (dtype) {
    case laplace::v1::DATA_TYPE_FLOAT32:
      return DType::kFloat32;
    case laplace::v1::DATA_TYPE_FLOAT64:
      return DType::kFloat64;
    case laplace::v1::DATA_TYPE_UINT8:
      return DType::kUint8;
    case laplace::v1::DATA_TYPE_INT64:
      return DType::kInt64;
    default:
      return FieldError(
          field, absl::StrCat("expected DATA_TYPE_FLOAT32, DATA_TYPE_FLOAT64, ",
                              "DATA_TYPE_UINT8 or DATA_TYPE_INT64, got ", DataTypeName(dtype)));
  }
}

DataType ToProto(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return laplace::v1::DATA_TYPE_FLOAT32;
    case DType::kFloat64:
      return laplace::v1::DATA_TYPE_FLOAT64;
    case DType::kUint8:
      return laplace::v1::DATA_TYPE_UINT8;
    case DType::kInt64:
      return laplace::v1::DATA_TYPE_INT64;
    default:
      return laplace::v1::DATA_TYPE_UNSPECIFIED;
  }
}

absl::StatusOr<ArrayView> ViewTensor(const Tensor& tensor, const std::string& field) {
  const absl::StatusOr<DType> dtype = ToDType(tensor.dtype(), absl::StrCat(field, ".dtype"));
  if (!dtype.ok()) return dtype.status();
  absl::StatusOr<std::vector<int64_t>> shape = ReadShape(tensor, *dtype, field);
  if (!shape.ok()) return shape.status();
  const int64_t elements = NumElements(*shape).value();

  const int64_t typed = tensor.float32_values_size();
  const int64_t raw = static_cast<int64_t>(tensor.raw_values().size());
  if (typed > 0 && raw > 0) {
    return FieldError(
        field, absl::StrCat("expected either float32_values or raw_values, got both (", typed,
                            " values and ", raw, " bytes)"));
  }
  if (typed == 0 && raw == 0) {
    return FieldError(field,
                      absl::StrCat("expected ", elements, " values for shape ", ShapeString(*shape),
                                   " in float32_values or raw_values, got none"));
  }
  ArrayView view;
  view.dtype = *dtype;
  if (typed > 0) {
    const std::string values_field = absl::StrCat(field, ".float32_values");
    if (*dtype != DType::kFloat32) {
      return FieldError(values_field, absl::StrCat("expected raw_values for elements of type ",
                                                   DTypeName(*dtype), ", got ", typed, " floats"));
    }
    if (typed != elements) return WrongCount(values_field, elements, typed, "values", *shape);
    view.data = tensor.float32_values().data();
  } else {
    const int64_t bytes = elements * ElementSize(*dtype);
    if (raw != bytes) {
      return WrongCount(absl::StrCat(field, ".raw_values"), bytes, raw, "bytes", *shape);
    }
    view.data = tensor.raw_values().data();
  }
  view.shape = *std::move(shape);
  return view;
}

void FillTensor(const std::vector<float>& values, const std::vector<int64_t>& shape,
                Tensor* tensor) {
  tensor->set_dtype(laplace::v1::DATA_TYPE_FLOAT32);
  tensor->mutable_shape()->Assign(shape.begin(), shape.end());
  tensor->mutable_float32_values()->Assign(values.begin(), values.end());
}

void FillInt64Tensor(const std::vector<int64_t>& values, const std::vector<int64_t>& shape,
                     Tensor* tensor) {
  tensor->set_dtype(laplace::v1::DATA_TYPE_INT64);
  tensor->mutable_shape()->Assign(shape.begin(), shape.end());
  tensor->set_raw_values(values.data(), values.size() * sizeof(int64_t));
}

}  // namespace laplaced
