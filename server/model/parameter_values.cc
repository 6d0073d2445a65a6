#include "server/model/parameter_values.h"

#include "server/model/torch_status.h"

namespace laplaced {

void SetParameters(const Network& network, const at::Tensor& theta) {
  TORCH_CHECK(theta.dim() == 1 && theta.size(0) == network.n_parameters(), "expected ",
              network.n_parameters(), " parameters, got a tensor of shape ", theta.sizes());
  at::NoGradGuard no_grad;
  for (const Parameter& p : network.parameters()) {
    at::Tensor value = p.value;  // shares its memory
    value.copy_(theta.narrow(0, p.offset, value.numel()).view(value.sizes()));
  }
}

absl::StatusOr<Network> WithParameters(const Network& network, const at::Tensor& theta) {
  LAPLACED_ASSIGN_OR_RETURN(Network copy, network.Clone());
  SetParameters(copy, theta);
  return copy;
}

}  // namespace laplaced
