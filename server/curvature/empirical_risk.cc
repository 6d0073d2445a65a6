#include "server/curvature/empirical_risk.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/model/torch_status.h"

namespace laplaced {

absl::StatusOr<double> EmpiricalRisk::MeanLoss(const ProgressFn& progress) const {
  return CatchTorch("training loss", [&]() -> absl::StatusOr<double> {
    double sum = 0;
    for (int64_t begin = 0; begin < size(); begin += chunk_size) {
      const Dataset chunk = data.Slice(begin, std::min(begin + chunk_size, size()));
      const at::Tensor loss =
          likelihood.Loss(network.Forward(NetworkInput(chunk.inputs)), chunk.targets);
      const at::Tensor bad = loss.isfinite().logical_not();
      if (bad.any().item<bool>()) {
        return absl::FailedPreconditionError(absl::StrCat("the loss of training example ",
                                                          begin + bad.nonzero()[0].item<int64_t>(),
                                                          " is not finite"));
      }
      sum += loss.sum().item<double>();
      if (progress) LAPLACED_RETURN_IF_ERROR(progress(begin + chunk.size(), size()));
    }
    return sum / static_cast<double>(size());
  });
}

}  // namespace laplaced
