#include "server/laplace/structure.h"

namespace laplaced {

int64_t RowsOf(const LinearizeRequest& request, const Network& network) {
  return request.outputs.defined() ? request.outputs.size(1) : network.n_outputs();
}

JacobianOptions JacobiansFor(const LinearizeRequest& request, const Network& network) {
  JacobianOptions options;
  options.parameters = request.parameters;
  if (!request.outputs.defined()) return options;
  options.columns = RowsOf(request, network);
  options.output_factor = [outputs = request.outputs, c = network.n_outputs()](const at::Tensor& f,
                                                                               int64_t begin) {
    const at::Tensor wanted = outputs.narrow(0, begin, f.size(0));
    return at::one_hot(wanted, c).transpose(1, 2).to(f.scalar_type());
  };
  return options;
}

}  // namespace laplaced
