#include "server/model/input_transform.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "formats/array.h"
#include "server/model/field_error.h"

namespace laplaced {
namespace {

// First row of finite-or-not numbers that holds one that is not, or -1: its exponent is all ones.
// Without LibTorch, whose dispatch would cost more than a small input.
template <typename Float, typename Bits>
int64_t FirstBadRow(const ArrayView& view, Bits exponent) {
  int64_t numel = 1;
  for (size_t i = 1; i < view.shape.size(); ++i) numel *= view.shape[i];
  const char* at = static_cast<const char*>(view.data);
  for (int64_t row = 0; row < view.shape[0]; ++row) {
    bool bad = false;
    for (int64_t i = 0; i < numel; ++i, at += sizeof(Float)) {
      Bits bits;
      std::memcpy(&bits, at, sizeof bits);
      bad |= (bits & exponent) == exponent;
    }
    if (bad) return row;
  }
  return -1;
}

at::Tensor PerChannel(const std::vector<double>& values, const at::Tensor& x) {
  std::vector<int64_t> shape(x.dim(), 1);
  shape[1] = static_cast<int64_t>(values.size());
  return at::tensor(values, x.options()).view(shape);
}

}  // namespace

absl::Status CheckInputs(const std::string& field, const ArrayView& view,
                         const Manifest& manifest) {
  const std::vector<int64_t> example(view.shape.begin() + (view.shape.empty() ? 0 : 1),
                                     view.shape.end());
  if (view.shape.empty() || example != manifest.input_shape) {
    std::string expected = "[B";
    for (int64_t d : manifest.input_shape) absl::StrAppend(&expected, ", ", d);
    return FieldError(absl::StrCat(field, ".shape"),
                      absl::StrCat("expected ", expected, "], got ", ShapeString(view.shape)));
  }
  if (view.shape[0] < 1) {
    return FieldError(absl::StrCat(field, ".shape"),
                      "expected at least one example, got an empty batch");
  }
  if (view.dtype == DType::kUint8) {
    if (manifest.accepts_uint8) return absl::OkStatus();
    return FieldError(absl::StrCat(field, ".dtype"),
                      "expected float32 or float64, got uint8; the model's manifest does not say "
                      "how to scale raw pixels "
                      "(input.uint8_scale)");
  }
  if (view.dtype != DType::kFloat32 && view.dtype != DType::kFloat64) {
    return FieldError(absl::StrCat(field, ".dtype"),
                      absl::StrCat("expected float32",
                                   manifest.accepts_uint8 ? ", float64 or uint8" : " or float64",
                                   ", got ", DTypeName(view.dtype)));
  }
  const int64_t row = view.dtype == DType::kFloat32
                          ? FirstBadRow<float, uint32_t>(view, uint32_t{0x7f800000})
                          : FirstBadRow<double, uint64_t>(view, uint64_t{0x7ff0000000000000});
  if (row < 0) return absl::OkStatus();
  return FieldError(
      field, absl::StrCat("row ", row, " holds a value that is not finite (NaN or infinity)"));
}

at::ScalarType ScalarTypeOf(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return at::kFloat;
    case DType::kFloat64:
      return at::kDouble;
    case DType::kUint8:
      return at::kByte;
    case DType::kInt32:
      return at::kInt;
    case DType::kInt64:
      return at::kLong;
  }
  return at::kFloat;
}

DType DTypeOf(at::ScalarType type) {
  for (const DType dtype : {DType::kFloat64, DType::kUint8, DType::kInt32, DType::kInt64}) {
    if (ScalarTypeOf(dtype) == type) return dtype;
  }
  return DType::kFloat32;
}

at::Tensor AliasArray(const ArrayView& view) {
  return at::from_blob(const_cast<void*>(view.data), view.shape,
                       at::TensorOptions(ScalarTypeOf(view.dtype)));
}

at::Tensor ToNetworkInput(const at::Tensor& raw, const Manifest& manifest, at::ScalarType dtype) {
  if (raw.scalar_type() != at::kByte) return raw.to(dtype);
  at::Tensor x = raw.to(dtype).mul_(manifest.uint8_scale);
  if (!manifest.uint8_mean.empty()) x.sub_(PerChannel(manifest.uint8_mean, x));
  if (!manifest.uint8_std.empty()) x.div_(PerChannel(manifest.uint8_std, x));
  return x;
}

}  // namespace laplaced
