// Outputs and features of any number of examples in one forward pass.
//
// Blocks are as small as the graph of a pass, which keeps every activation, allows. Free functions;
// thread-safe. They throw LibTorch exceptions; callers wrap them in CatchTorch.
#pragma once

#include <ATen/ATen.h>

#include "absl/status/statusor.h"
#include "server/model/feature_layer.h"
#include "server/serving/compute_context.h"
#include "server/serving/loaded_model.h"

namespace laplaced {

// Of network inputs x [n, input_shape...].
absl::StatusOr<FeatureForward> FeaturesOfInputs(const LoadedModel& model, const FeatureLayer& layer,
                                                const at::Tensor& x);

// Of a request's examples `raw` [n, ...], the first of which is its row `first`; padded as all
// blocks of requests (example_blocks.h). INVALID_ARGUMENT if a row overflows.
absl::StatusOr<FeatureForward> FeaturesOfRows(const LoadedModel& model, const FeatureLayer& layer,
                                              const at::Tensor& raw, int64_t first,
                                              const ComputeContext& context);

}  // namespace laplaced
