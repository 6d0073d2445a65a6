#include "server/model/captured_layers.h"

#include <string>
#include <unordered_map>

#include "server/model/captured_kinds.h"

namespace laplaced {

at::Tensor SavedByExample(const UseSite& site, const at::Tensor& saved, BatchLayout layout) {
  if (!saved.defined() || !HoldsExamples(saved.sizes(), site.examples, layout)) return {};
  return ByExample(saved, site.examples, layout);
}

CapturedUse MakeParameterUse(const UseSite& site) {
  using MakeUse = CapturedUse (*)(const UseSite&);
  static const auto* kKinds = new std::unordered_map<std::string, MakeUse>{
      {"AddmmBackward0", AddmmUse},
      {"MmBackward0", MmUse},
      {"BmmBackward0", BmmUse},
      {"ConvolutionBackward0", ConvolutionUse},
      {"ConvolutionBackward1", ConvolutionUse},
      {"NativeBatchNormBackward0", BatchNormUse},
      {"NativeLayerNormBackward0", LayerNormUse},
      {"NativeGroupNormBackward0", GroupNormUse},
      {"EmbeddingBackward0", EmbeddingUse},
      {"MulBackward0", MulUse},
      {"AddBackward0", AddUse},
      {"SubBackward0", SubUse},
      {"PreluBackward0", PreluUse},
      {"PreluKernelBackward0", PreluUse},
      {"ExpandBackward0", ExpandUse},
      {"RepeatBackward0", RepeatUse},
  };
  const auto it = kKinds->find(site.node->name());
  if (it == kKinds->end()) return {};
  at::NoGradGuard no_grad;  // saved inputs carry history
  return it->second(site);
}

}  // namespace laplaced
