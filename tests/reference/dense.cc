#include "tests/reference/dense.h"

#include <torch/autograd.h>

#include <vector>

namespace laplaced::reference {

at::Tensor Jacobians(const Network& network, const at::Tensor& x) {
  std::vector<at::Tensor> leaves;
  for (const Parameter& p : network.parameters()) leaves.push_back(p.value);
  std::vector<at::Tensor> examples;
  for (int64_t n = 0; n < x.size(0); ++n) {
    std::vector<at::Tensor> rows;
    for (int64_t c = 0; c < network.n_outputs(); ++c) {
      const at::Tensor f = network.ForwardWithGraph(x.narrow(0, n, 1));
      const auto grads =
          torch::autograd::grad({f[0][c]}, leaves, {}, false, false, /*allow_unused=*/true);
      std::vector<at::Tensor> flat;
      for (size_t i = 0; i < leaves.size(); ++i) {
        flat.push_back(grads[i].defined() ? grads[i].flatten()
                                          : at::zeros_like(leaves[i]).flatten());
      }
      rows.push_back(at::cat(flat).detach());
    }
    examples.push_back(at::stack(rows));
  }
  return at::stack(examples).to(at::kDouble);
}

at::Tensor OutputHessian(const Likelihood& likelihood, const at::Tensor& f) {
  const int64_t b = f.size(0), c = f.size(1);
  at::Tensor hessian = at::zeros({b, c, c}, at::kDouble);
  const at::Tensor p = at::softmax(f.to(at::kDouble), 1).contiguous();
  for (int64_t n = 0; n < b; ++n) {
    for (int64_t i = 0; i < c; ++i) {
      for (int64_t j = 0; j < c; ++j) {
        const double pi = p[n][i].item<double>(), pj = p[n][j].item<double>();
        hessian[n][i][j] =
            likelihood.kind == Likelihood::Kind::kCategorical
                ? (i == j ? pi : 0) - pi * pj
                : (i == j ? 1 / (likelihood.sigma_noise * likelihood.sigma_noise) : 0);
      }
    }
  }
  return hessian;
}

at::Tensor Ggn(const Network& network, const Likelihood& likelihood, const at::Tensor& x) {
  const at::Tensor j = Jacobians(network, x);
  const at::Tensor hessian = OutputHessian(likelihood, network.Forward(x));
  return at::bmm(at::bmm(j.transpose(1, 2), hessian), j).mean(0);
}

at::Tensor Precision(const LowRankPosterior& posterior) {
  const at::Tensor u = posterior.directions.to(at::kDouble);
  const at::Tensor identity = at::eye(posterior.n_parameters(), at::kDouble);
  const at::Tensor projector = at::mm(u, u.t());
  const auto n = static_cast<double>(posterior.n_data);
  return at::mm(u, at::mm(at::diag(n * posterior.curvature), u.t())) +
         posterior.prior_precision * identity + n * posterior.residual * (identity - projector);
}

EmpiricalRisk MakeRisk(Network network, const Likelihood& likelihood, at::Tensor inputs,
                       at::Tensor targets) {
  Manifest manifest;
  manifest.likelihood = likelihood;
  manifest.input_shape = network.input_shape();
  manifest.n_outputs = network.n_outputs();
  return {std::move(network), likelihood, manifest, {std::move(inputs), std::move(targets)}};
}

}  // namespace laplaced::reference
