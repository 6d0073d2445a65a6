// A request's examples in blocks that the network takes at once.
//
// Every block is padded to a power of two by repeating its first example, because oneDNN's
// primitive cache grows without bound over varied batch sizes; padding never changes another
// example's answer. Free functions on values; thread-safe. They throw LibTorch exceptions; callers
// wrap them in CatchTorch.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "server/laplace/structure.h"
#include "server/serving/loaded_model.h"
#include "server/serving/loaded_posterior.h"

namespace laplaced {

inline constexpr int64_t kForwardBlock = 64;  // examples of a forward pass

// Examples of a block whose Jacobians are needed: the largest power of two that ExamplesPerStep
// allows, more of them where only `rows` of an example's C outputs are.
int64_t JacobianBlock(const Network& network);
int64_t JacobianBlock(const Network& network, int64_t rows);

// Examples of a forward-mode pass: as many as activations, tangents and graph leave room for.
int64_t ForwardModeBlock(const Network& network, const CapturePlan& plan);

// Examples [begin, begin + count) of `raw` as the network takes them, padded.
at::Tensor PaddedBlock(const LoadedModel& model, const at::Tensor& raw, int64_t begin,
                       int64_t count);

// All examples of `raw` in padded blocks of at most `size`.
std::vector<at::Tensor> PaddedBlocks(const LoadedModel& model, const at::Tensor& raw, int64_t size);

// INVALID_ARGUMENT about "inputs" if a row [n, C] is not finite; the first row is number `begin` of
// the request. Finite inputs can still be too large for the network's precision.
absl::Status CheckFinite(const at::Tensor& rows, int64_t begin);

// Outputs of `count` examples from `begin`, without padding, finite or not: [count, C] fp64.
at::Tensor ForwardBlock(const LoadedModel& model, const at::Tensor& raw, int64_t begin,
                        int64_t count);

// The Gaussian over the outputs of `count` examples from `begin`, without padding. The request's
// outputs, if it has some, are those of these examples, [count, m].
absl::StatusOr<Linearized> LinearizeBlock(const LoadedModel& model,
                                          const LoadedPosterior& posterior,
                                          LinearizeRequest request, const at::Tensor& raw,
                                          int64_t begin, int64_t count);

}  // namespace laplaced
