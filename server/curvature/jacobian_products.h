// What a posterior needs to know of the Jacobians J_n of a batch, without ever holding them all:
//
//   f [B, C]      outputs
//   T [B, C, K]   T_n = J_n U, for K directions
//   G [B, C, C]   G_n = J_n J_n'
//
// Per-example gradients of the captured parameters are formed in tiles of a few examples,
// contracted with U and with themselves, and dropped; parameters outside captured layers add the
// same sums from one reverse pass per example and output. T and G are exact (no sampling),
// accumulated over parameters in fp64 from products in the network's precision. A tile takes about
// `tile_bytes`, whatever the batch. Pure functions of their arguments; thread-safe.
#pragma once

#include <ATen/ATen.h>

#include "absl/status/statusor.h"
#include "server/model/layer_capture.h"
#include "server/model/network.h"

namespace laplaced {

struct JacobianProducts {
  at::Tensor f;  // [B, C] in the network's precision
  at::Tensor t;  // [B, C, K] fp64
  at::Tensor g;  // [B, C, C] fp64
};

struct JacobianOptions {
  int64_t tile_bytes = 8 << 20;
  int64_t gradient_bytes = 240 << 20;
  int64_t repeat_limit = 40;  // repeat examples while batch * C is at most this
};

// `x` [B, input_shape...] in the network's precision; `directions` [P, K], K >= 0, likewise,
// row-major.
absl::StatusOr<JacobianProducts> ComputeJacobianProducts(const Network& network,
                                                         const CapturePlan& plan,
                                                         const at::Tensor& x,
                                                         const at::Tensor& directions,
                                                         const JacobianOptions& options = {});

// How many examples to give to one call when the caller wants to look up between calls (progress,
// cancellation): at most 64, fewer for networks with many outputs and parameters, so that a call
// takes seconds at the most.
int64_t ExamplesPerStep(const Network& network);

}  // namespace laplaced
