// The joint Gaussian over the outputs of a whole batch: how the errors of different examples go
// together, for decisions about sums, differences or sets of them.
//
// Exact, at the price of keeping the batch's Jacobian. Thread-safe (a function of its arguments).
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "absl/status/statusor.h"
#include "server/laplace/structure.h"

namespace laplaced {

// Memory that the Jacobians of one batch may take.
inline constexpr int64_t kJointJacobianBytes = int64_t{1} << 30;

// Bytes of the Jacobians of `batch` examples.
double JointJacobianBytes(const Network& network, int64_t batch);

// INVALID_ARGUMENT about `field`, with the numbers and what to do, if a batch takes more than
// kJointJacobianBytes.
absl::Status CheckJointCovariance(const std::string& field, const Network& network, int64_t batch);

// J Sigma J' for the Jacobian J [B * C, P] of a whole batch: [B * C, B * C] fp64, symmetric; row
// n * C + c is output c of example n. Its diagonal blocks are the examples' own V. The batch comes
// in blocks [b, input_shape...] whose first B examples count (what is left is padding).
// `parameters` as in LinearizeRequest.
absl::StatusOr<at::Tensor> JointCovariance(const Structure& structure, const Network& network,
                                           const CapturePlan& plan,
                                           const std::vector<at::Tensor>& blocks, int64_t batch,
                                           const Precisions& at,
                                           const std::vector<bool>& parameters = {});

}  // namespace laplaced
