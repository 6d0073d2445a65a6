// Gradients of a convolution for many seeds at once, out of cache-sized tiles (tile_kernels.h).
//
// For convolutions over one or two dimensions, any stride, dilation, groups and zero padding. All
// tensors are in the network's precision, fp32 or fp64, and know no gradient mode. Work is spread
// over LibTorch's threads unless the caller is one of several already. Thread-safe.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

namespace laplaced {

// Sizes over two dimensions; the first is one for a signal.
struct ConvolutionShape {
  int64_t in = 0, out = 0, groups = 1;  // channels
  int64_t kernel[2] = {1, 1}, stride[2] = {1, 1}, padding[2] = {0, 0}, dilation[2] = {1, 1};
  int64_t input[2] = {1, 1}, output[2] = {1, 1};  // height and width

  int64_t Places() const { return output[0] * output[1]; }
  // Of one group's patch: the columns of the weight seen as a matrix [out, in / groups * kernel].
  int64_t PatchSize() const { return in / groups * kernel[0] * kernel[1]; }
  // Multiply-adds of one image.
  int64_t Macs() const { return out * PatchSize() * Places(); }
};

// Gradients at the inputs, [n, in, input...], from those at the outputs, [n, out, output...]
// (contiguous), for weight [out, in / groups, kernel...].
at::Tensor ConvolutionInputGradient(const ConvolutionShape& shape, const at::Tensor& weight,
                                    const at::Tensor& grads);

// The patches of inputs [b, in, input...] that a convolution multiplies, [b, groups, panels,
// places, panel], as MultiplyPanels wants them.
at::Tensor ConvolutionPatches(const ConvolutionShape& shape, const at::Tensor& inputs);

// Per-example gradients of the weight, [b, R, numel], from ConvolutionPatches of b examples and
// gradients at the outputs, [b, R, out, output...]: any strides in the first two dimensions,
// contiguous in the others.
at::Tensor ConvolutionWeightJacobian(const ConvolutionShape& shape, const at::Tensor& patches,
                                     const at::Tensor& grads);

// Adds J U to t [b, R, K] and J J' to g [b, R, R] (contiguous, fp64) for that Jacobian and u
// [numel, K], row-major, a few output channels at a time: the Jacobian is never there as a whole.
void AddConvolutionProducts(const ConvolutionShape& shape, const at::Tensor& patches,
                            const at::Tensor& grads, const at::Tensor& u, const at::Tensor& t,
                            const at::Tensor& g);

}  // namespace laplaced
