// From the arrays that users send to the tensors that a network reads.
//
// Floating-point arrays are taken as they are (converted to the network's precision); uint8 arrays
// are raw pixels and go through the manifest's scale, mean and standard deviation. Pure functions;
// thread-safe.
#pragma once

#include <ATen/ATen.h>

#include <string>

#include "absl/status/status.h"
#include "formats/safetensors.h"
#include "server/model/manifest.h"

namespace laplaced {

// INVALID_ARGUMENT with field `<field>.shape`, `<field>.dtype` or `<field>` unless `view` is [B,
// input_shape...] with B >= 1, of an accepted type, and finite (the message names the first row
// that is not).
absl::Status CheckInputs(const std::string& field, const ArrayView& view, const Manifest& manifest);

// A tensor over the same memory, which must outlive it.
at::Tensor AliasArray(const ArrayView& view);

at::ScalarType ScalarTypeOf(DType dtype);
// The inverse. REQUIRES: a type that files have.
DType DTypeOf(at::ScalarType type);

// [B, input_shape...] in `dtype`. REQUIRES: CheckInputs is OK.
at::Tensor ToNetworkInput(const at::Tensor& raw, const Manifest& manifest, at::ScalarType dtype);

}  // namespace laplaced
