// One function for every kind of node, and what they share. Used by captured_*.cc only.
//
// Every function returns a CapturedUse without a use where the parameter's role, or the shape of
// what the node saved, is not one that it understands.
#pragma once

#include <memory>
#include <vector>

#include "absl/types/optional.h"
#include "server/model/captured_layers.h"

namespace laplaced {

CapturedUse AddmmUse(const UseSite& site);
CapturedUse MmUse(const UseSite& site);
CapturedUse BmmUse(const UseSite& site);
CapturedUse ConvolutionUse(const UseSite& site);  // both of autograd's convolution nodes
CapturedUse BatchNormUse(const UseSite& site);
CapturedUse LayerNormUse(const UseSite& site);
CapturedUse GroupNormUse(const UseSite& site);
CapturedUse EmbeddingUse(const UseSite& site);
CapturedUse MulUse(const UseSite& site);
CapturedUse AddUse(const UseSite& site);
CapturedUse SubUse(const UseSite& site);
CapturedUse PreluUse(const UseSite& site);
CapturedUse ExpandUse(const UseSite& site);
CapturedUse RepeatUse(const UseSite& site);

// A tensor that the node saved, [B, T, rest...] or [B, rest...] as ByExample says; undefined if its
// shape cannot hold the batch.
at::Tensor SavedByExample(const UseSite& site, const at::Tensor& saved, BatchLayout layout);

// `shape`, broadcast in a node output of `dims` dimensions, as it is broadcast in one example's
// part of it; nothing if it is not broadcast over the examples.
absl::optional<std::vector<int64_t>> ShapeInExample(const std::vector<int64_t>& shape, int64_t dims,
                                                    BatchLayout layout);

// [channels, 1, ...]: the shape of a parameter for each channel in a node output of `dims`
// dimensions, of which the second are the channels.
std::vector<int64_t> ChannelShape(int64_t channels, int64_t dims);

// A parameter of `shape` (in an example's part of the output) that is added to the output,
// `factor` times.
std::shared_ptr<ParameterUse> MakeTermUse(std::vector<int64_t> shape, double factor = 1);

// A parameter of `shape` that multiplies `other` [B, ...], of the output's dimensions.
std::shared_ptr<ParameterUse> MakeScaleUse(std::vector<int64_t> shape, at::Tensor other);

}  // namespace laplaced
