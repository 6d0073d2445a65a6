#include "tests/reference/dense.h"

#include <torch/autograd.h>

#include <cmath>
#include <vector>

namespace laplaced::reference {
namespace {

std::vector<at::Tensor> Leaves(const Network& network) {
  std::vector<at::Tensor> leaves;
  for (const Parameter& p : network.parameters()) leaves.push_back(p.value);
  return leaves;
}

// Gradients of `leaves` as one vector [P], fp64; zero where none arrived.
at::Tensor Flat(const std::vector<at::Tensor>& gradients, const std::vector<at::Tensor>& leaves) {
  std::vector<at::Tensor> flat;
  for (size_t i = 0; i < leaves.size(); ++i) {
    flat.push_back((gradients[i].defined() ? gradients[i] : at::zeros_like(leaves[i])).flatten());
  }
  return at::cat(flat).to(at::kDouble);
}

// Loss of one example, with graph.
at::Tensor LossOf(const EmpiricalRisk& risk, int64_t row) {
  at::AutoGradMode with_grad(true);
  const Dataset example = risk.data.Slice(row, row + 1);
  return risk.likelihood
      .Loss(risk.network.ForwardWithGraph(risk.NetworkInput(example.inputs)), example.targets)
      .sum();
}

}  // namespace

at::Tensor Jacobians(const Network& network, const at::Tensor& x) {
  const std::vector<at::Tensor> leaves = Leaves(network);
  std::vector<at::Tensor> examples;
  for (int64_t n = 0; n < x.size(0); ++n) {
    std::vector<at::Tensor> rows;
    for (int64_t c = 0; c < network.n_outputs(); ++c) {
      const at::Tensor f = network.ForwardWithGraph(x.narrow(0, n, 1));
      rows.push_back(
          Flat(torch::autograd::grad({f[0][c]}, leaves, {}, false, false, true), leaves).detach());
    }
    examples.push_back(at::stack(rows));
  }
  return at::stack(examples);
}

at::Tensor OutputHessian(const Likelihood& likelihood, const at::Tensor& f) {
  const int64_t b = f.size(0), c = f.size(1);
  const at::Tensor logits = f.to(at::kDouble).contiguous();
  at::Tensor hessian = at::zeros({b, c, c}, at::kDouble);
  for (int64_t n = 0; n < b; ++n) {
    double sum = 0;
    for (int64_t i = 0; i < c; ++i) sum += std::exp(logits[n][i].item<double>());
    for (int64_t i = 0; i < c; ++i) {
      for (int64_t j = 0; j < c; ++j) {
        const double ei = std::exp(logits[n][i].item<double>()),
                     ej = std::exp(logits[n][j].item<double>());
        switch (likelihood.kind) {
          case Likelihood::Kind::kCategorical:
            hessian[n][i][j] = (i == j ? ei / sum : 0) - ei / sum * ej / sum;
            break;
          case Likelihood::Kind::kBernoulli:
            hessian[n][i][j] = i == j ? ei / (1 + ei) * (1 - ei / (1 + ei)) : 0;
            break;
          case Likelihood::Kind::kGaussian:
            hessian[n][i][j] = i == j ? 1 / (likelihood.sigma_noise * likelihood.sigma_noise) : 0;
            break;
        }
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

at::Tensor FactoredCurvature(const Network& network, const at::Tensor& x,
                             const at::Tensor& factor) {
  const at::Tensor columns =
      at::bmm(Jacobians(network, x).transpose(1, 2), factor.to(at::kDouble));  // [B, P, R]
  return at::bmm(columns, columns.transpose(1, 2)).mean(0);
}

at::Tensor EmpiricalFisher(const EmpiricalRisk& risk) {
  const std::vector<at::Tensor> leaves = Leaves(risk.network);
  at::Tensor sum =
      at::zeros({risk.network.n_parameters(), risk.network.n_parameters()}, at::kDouble);
  for (int64_t n = 0; n < risk.size(); ++n) {
    const at::Tensor g =
        Flat(torch::autograd::grad({LossOf(risk, n)}, leaves, {}, false, false, true), leaves);
    sum += at::outer(g, g);
  }
  return sum / static_cast<double>(risk.size());
}

at::Tensor Hessian(const EmpiricalRisk& risk) {
  const std::vector<at::Tensor> leaves = Leaves(risk.network);
  const int64_t p = risk.network.n_parameters();
  at::Tensor sum = at::zeros({p, p}, at::kDouble);
  for (int64_t n = 0; n < risk.size(); ++n) {
    at::AutoGradMode with_grad(true);
    const at::Tensor g = Flat(
        torch::autograd::grad({LossOf(risk, n)}, leaves, {}, true, /*create_graph=*/true, true),
        leaves);
    for (int64_t i = 0; i < p; ++i) {
      if (!g[i].requires_grad()) continue;
      const auto row = torch::autograd::grad({g[i]}, leaves, {}, true, false, true);
      sum[i] += Flat(row, leaves).detach();
    }
  }
  return sum / static_cast<double>(risk.size());
}

at::Tensor Curvature(const EmpiricalRisk& risk, const CurvatureSpec& spec) {
  const at::Tensor x = risk.NetworkInput(risk.data.inputs);
  switch (spec.kind) {
    case CurvatureKind::kGgn:
      return Ggn(risk.network, risk.likelihood, x);
    case CurvatureKind::kEmpiricalFisher:
      return EmpiricalFisher(risk);
    case CurvatureKind::kHessian:
      return Hessian(risk);
    case CurvatureKind::kMcFisher:
      break;
  }
  return FactoredCurvature(risk.network, x,
                           OutputFactor(spec, risk.likelihood, risk.network.Forward(x),
                                        risk.data.targets, at::arange(risk.size(), at::kLong)));
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
