// The layer whose inputs are the features phi that feature scores look at, and the features of a
// batch.
//
// Functions throw LibTorch exceptions; callers wrap them in CatchTorch. Thread-safe.
#pragma once

#include <ATen/ATen.h>

#include <string>

#include "absl/status/statusor.h"
#include "server/model/layer_capture.h"
#include "server/model/network.h"

namespace laplaced {

// More features than this make covariances that are too large to keep.
inline constexpr int64_t kMostFeatures = 4096;

struct FeatureLayer {
  std::string weight;    // the parameter that is applied to the features
  size_t parameter = 0;  // its index in the network
  int64_t width = 0;     // D, the number of features
  // The outputs as a linear function of the features, f = W phi + b, where they are one: W [C, D],
  // b [C], fp64. Undefined otherwise.
  at::Tensor head_weight, head_bias;

  bool has_head() const { return head_weight.defined(); }
};

// The layer of the weight called `requested`; if that is empty the one that the outputs are a
// linear function of (a linear layer, or convolutions of one pixel before an average), and failing
// that the last one. INVALID_ARGUMENT about "options.feature_layer" if there is no captured weight
// of that name, NOT_FOUND if nothing was requested and nothing is there; both messages say why.
absl::StatusOr<FeatureLayer> FindFeatureLayer(const Network& network, const CapturePlan& plan,
                                              const std::string& requested);

struct FeatureForward {
  at::Tensor f;         // [B, C] fp64
  at::Tensor features;  // phi, [B, D] fp64
};

// `network` and `plan` are those that the layer was found in, x [B, input_shape...].
// FAILED_PRECONDITION if this pass uses the layer otherwise than the trial did (control flow that
// depends on data).
absl::StatusOr<FeatureForward> ForwardFeatures(const Network& network, const CapturePlan& plan,
                                               const FeatureLayer& layer, const at::Tensor& x);

}  // namespace laplaced
