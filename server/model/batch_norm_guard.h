// Works around batch norm in LibTorch 1.13, whose CPU backward misreads some gradients of a single
// example.
//
// For one image, the gradient that comes back through a transposition (a convolutional stem whose
// positions become tokens) can be channels-last in memory while the stride of its first dimension,
// which has size one, hides that; the kernel then reads it as if it were contiguous: the gradients
// of scale, shift and input are wrong without an error. A copy in the usual order is read right.
#pragma once

#include <ATen/ATen.h>

namespace laplaced {

// Lets every batch norm behind `outputs`, of one example, see contiguous gradients. Changes the
// graph of these outputs only.
void GuardBatchNormGradients(const at::Tensor& outputs);

}  // namespace laplaced
