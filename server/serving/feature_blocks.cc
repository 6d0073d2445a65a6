#include "server/serving/feature_blocks.h"

#include <algorithm>
#include <vector>

#include "server/model/torch_status.h"
#include "server/serving/example_blocks.h"

namespace laplaced {
namespace {

struct Parts {
  std::vector<at::Tensor> f, features;

  void Add(const FeatureForward& block, int64_t count) {
    f.push_back(block.f.narrow(0, 0, count));
    features.push_back(block.features.narrow(0, 0, count));
  }
  FeatureForward Joined() const { return {at::cat(f), at::cat(features)}; }
};

}  // namespace

absl::StatusOr<FeatureForward> FeaturesOfInputs(const LoadedModel& model, const FeatureLayer& layer,
                                                const at::Tensor& x) {
  const int64_t size = ForwardModeBlock(model.network, model.capture);
  Parts parts;
  for (int64_t begin = 0; begin < x.size(0); begin += size) {
    const int64_t count = std::min(size, x.size(0) - begin);
    LAPLACED_ASSIGN_OR_RETURN(
        const FeatureForward block,
        ForwardFeatures(model.network, model.capture, layer, x.narrow(0, begin, count)));
    parts.Add(block, count);
  }
  return parts.Joined();
}

absl::StatusOr<FeatureForward> FeaturesOfRows(const LoadedModel& model, const FeatureLayer& layer,
                                              const at::Tensor& raw, int64_t first,
                                              const ComputeContext& context) {
  const int64_t size = ForwardModeBlock(model.network, model.capture);
  Parts parts;
  for (int64_t begin = 0; begin < raw.size(0); begin += size) {
    LAPLACED_RETURN_IF_ERROR(context.Check());
    const int64_t count = std::min(size, raw.size(0) - begin);
    LAPLACED_ASSIGN_OR_RETURN(const FeatureForward block,
                              ForwardFeatures(model.network, model.capture, layer,
                                              PaddedBlock(model, raw, begin, count)));
    parts.Add(block, count);
    LAPLACED_RETURN_IF_ERROR(
        CheckFinite(at::cat({parts.f.back(), parts.features.back()}, 1), first + begin));
  }
  return parts.Joined();
}

}  // namespace laplaced
