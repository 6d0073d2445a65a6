// The gradient of the mean loss of a batch.
#pragma once

#include <ATen/ATen.h>

#include "absl/status/statusor.h"
#include "server/curvature/empirical_risk.h"

namespace laplaced {

// Mean over the examples `rows` [n > 0] int64 of the risk's data of d loss_n / d theta: [P] fp64.
// Goes through in chunks (ProductChunk); of several ranks, each takes those that it has. Errors:
// those of the ranks, and FAILED_PRECONDITION with LibTorch's reason.
absl::StatusOr<at::Tensor> MeanGradient(const EmpiricalRisk& risk, const at::Tensor& rows);

}  // namespace laplaced
