#include "server/laplace/tensor_map.h"

#include "absl/strings/str_cat.h"
#include "server/model/input_transform.h"
#include "server/model/torch_status.h"

namespace laplaced {

absl::StatusOr<at::Tensor> FindTensor(const TensorMap& tensors, const std::string& name,
                                      at::IntArrayRef sizes) {
  const auto it = tensors.find(name);
  if (it == tensors.end()) return absl::DataLossError(absl::StrCat("tensor ", name, " is missing"));
  if (!sizes.empty() && it->second.sizes() != sizes) {
    return absl::DataLossError(absl::StrCat("tensor ", name, " has another shape"));
  }
  return it->second;
}

absl::StatusOr<TensorMap> AliasTensors(const MappedSafetensors& file) {
  TensorMap tensors;
  for (const std::string& name : file.Names()) {
    LAPLACED_ASSIGN_OR_RETURN(const ArrayView view, file.Get(name));
    tensors[name] = AliasArray(view);
  }
  return tensors;
}

std::vector<NamedArrayView> ViewsOf(TensorMap& tensors) {
  std::vector<NamedArrayView> views;
  for (auto& [name, tensor] : tensors) {
    tensor = tensor.contiguous();
    views.push_back(
        {name, {DTypeOf(tensor.scalar_type()), tensor.sizes().vec(), tensor.data_ptr()}});
  }
  return views;
}

void PutMoments(TensorMap& tensors, const std::string& prefix, const RunningMoments& moments) {
  if (moments.count == 0) return;
  tensors[prefix + ".counts"] = at::tensor({moments.count, moments.samples}, at::kLong);
  tensors[prefix + ".mean"] = moments.mean;
  tensors[prefix + ".m2"] = moments.m2;
}

absl::StatusOr<RunningMoments> TakeMoments(const TensorMap& tensors, const std::string& prefix,
                                           int64_t size) {
  RunningMoments moments;
  if (tensors.count(prefix + ".counts") == 0) return moments;
  LAPLACED_ASSIGN_OR_RETURN(const at::Tensor counts, FindTensor(tensors, prefix + ".counts", {2}));
  moments.count = counts[0].item<int64_t>();
  moments.samples = counts[1].item<int64_t>();
  LAPLACED_ASSIGN_OR_RETURN(moments.mean, FindTensor(tensors, prefix + ".mean"));
  LAPLACED_ASSIGN_OR_RETURN(moments.m2, FindTensor(tensors, prefix + ".m2", moments.mean.sizes()));
  if (moments.mean.dim() != 1 || (size >= 0 && moments.mean.size(0) != size) || moments.count < 1 ||
      moments.samples < 1) {
    return absl::DataLossError(absl::StrCat("tensors ", prefix, ".* do not fit the posterior"));
  }
  return moments;
}

}  // namespace laplaced
