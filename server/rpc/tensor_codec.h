// laplace.v1.Tensor as an ArrayView, and back.
//
// A tensor comes from anyone who can reach the port, so ViewTensor checks everything before a byte
// is used: known type, sizes, overflow of their product, exactly one of the two value fields, and
// the number of values against the shape. The view aliases the message, without a copy: the message
// must outlive it and stay unchanged. Errors are INVALID_ARGUMENT with the path of the field below
// `field`, what was expected and what came. Free functions; thread-safe.
#pragma once

#include <laplace/v1/tensor.pb.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/safetensors.h"

namespace laplaced {

// Error: UNSPECIFIED or a number that is no DataType.
absl::StatusOr<DType> ToDType(laplace::v1::DataType dtype, const std::string& field);

// UNSPECIFIED for a type that the API does not have.
laplace::v1::DataType ToProto(DType dtype);

absl::StatusOr<ArrayView> ViewTensor(const laplace::v1::Tensor& tensor, const std::string& field);

// Fills a FLOAT32 tensor. REQUIRES: the product of `shape` is the number of values.
void FillTensor(const std::vector<float>& values, const std::vector<int64_t>& shape,
                laplace::v1::Tensor* tensor);
// Fills an INT64 tensor, likewise.
void FillInt64Tensor(const std::vector<int64_t>& values, const std::vector<int64_t>& shape,
                     laplace::v1::Tensor* tensor);

}  // namespace laplaced
