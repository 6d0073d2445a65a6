// Passes over gradients of many seeds at values that have channels: [seeds, examples, channels,
// places...], contiguous in channels and places. What elementwise layers need, each in one pass
// over memory, on all threads unless the caller is one of several already. fp32 or fp64; gradient
// mode off.
#pragma once

#include <ATen/ATen.h>

namespace laplaced {

// Gradients before a ReLU from those after it, for its result y [examples...]: g where y > 0.
// Written into `grads` if `in_place`.
at::Tensor GradientThroughRelu(const at::Tensor& y, const at::Tensor& grads, bool in_place);

// grads [R, b, channels, places...] times factors [channels]; into `grads` if `in_place`.
at::Tensor ScaledChannels(const at::Tensor& factors, const at::Tensor& grads, bool in_place);

// [b, R, channels] from grads [b, R, channels, places...], any strides in the first two dimensions:
// sums over places, of products with x [b, channels, places...] if it is defined.
at::Tensor SumOverPlaces(const at::Tensor& grads, const at::Tensor& x = {});

}  // namespace laplaced
