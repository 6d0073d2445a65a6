// A network's parameters as one vector, for writing. Functions throw LibTorch exceptions.
#pragma once

#include <ATen/ATen.h>

#include "absl/status/statusor.h"
#include "server/model/network.h"

namespace laplaced {

// Overwrites the parameters of `network`, and with them those of its module and of all that share
// it, by `theta` [P] (network.h), converted to the network's precision. No other thread may use
// them meanwhile.
void SetParameters(const Network& network, const at::Tensor& theta);

// A deep copy of the network with other parameters.
absl::StatusOr<Network> WithParameters(const Network& network, const at::Tensor& theta);

}  // namespace laplaced
