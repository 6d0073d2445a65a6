// Tensors by name: what a fit stores.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/safetensors.h"
#include "server/curvature/running_moments.h"

namespace laplaced {

using TensorMap = std::map<std::string, at::Tensor>;

// DATA_LOSS if there is none of this name, or if it does not have `sizes` (unless that is empty).
absl::StatusOr<at::Tensor> FindTensor(const TensorMap& tensors, const std::string& name,
                                      at::IntArrayRef sizes = {});

// All tensors of a file, which must outlive them.
absl::StatusOr<TensorMap> AliasTensors(const MappedSafetensors& file);
// For writing them, after they have been made contiguous; `tensors` must outlive the views.
std::vector<NamedArrayView> ViewsOf(TensorMap& tensors);

// `<prefix>.counts`, `<prefix>.mean` and `<prefix>.m2`; nothing if there are no samples.
void PutMoments(TensorMap& tensors, const std::string& prefix, const RunningMoments& moments);
// Moments of vectors of length `size` (any, if negative); without samples if nothing was put.
absl::StatusOr<RunningMoments> TakeMoments(const TensorMap& tensors, const std::string& prefix,
                                           int64_t size = -1);

}  // namespace laplaced
