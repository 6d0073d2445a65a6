// Dense references: every matrix written out, by plain autograd and plain linear algebra. For small
// problems only.
#pragma once

#include <ATen/ATen.h>

#include "server/curvature/empirical_risk.h"
#include "server/curvature/output_factor.h"
#include "server/linalg/linear_operator.h"
#include "server/model/likelihood.h"
#include "server/model/network.h"

namespace laplaced::reference {

// J_n for every example, one reverse pass per example and output: [B, C, P], fp64.
at::Tensor Jacobians(const Network& network, const at::Tensor& x);

// Mean over examples of J' Lambda J, [P, P], with Lambda written out from its definition.
at::Tensor Ggn(const Network& network, const Likelihood& likelihood, const at::Tensor& x);

// diag(p) - p p', diag(p (1 - p)) or I / sigma^2 for every example, [B, C, C], elementwise.
at::Tensor OutputHessian(const Likelihood& likelihood, const at::Tensor& f);

// Mean over examples of J' L L' J for given factors L [B, C, R], [P, P].
at::Tensor FactoredCurvature(const Network& network, const at::Tensor& x, const at::Tensor& factor);

// Mean over examples of g g', [P, P], where g is the gradient of the example's own loss, one
// reverse pass through the loss each.
at::Tensor EmpiricalFisher(const EmpiricalRisk& risk);

// Second derivatives of the mean loss over all examples, [P, P], one reverse pass through the graph
// of the gradient for each parameter.
at::Tensor Hessian(const EmpiricalRisk& risk);

// The curvature of the whole data that a specification means, [P, P]; MC_FISHER with the factors
// that output_factor.h draws.
at::Tensor Curvature(const EmpiricalRisk& risk, const CurvatureSpec& spec);

// A dense symmetric matrix as an operator.
class MatrixOperator : public LinearOperator {
 public:
  explicit MatrixOperator(at::Tensor matrix) : matrix_(std::move(matrix)) {}
  int64_t Rows() const override { return matrix_.size(0); }
  int64_t Cols() const override { return matrix_.size(1); }
  bool SelfAdjoint() const override { return true; }
  double ProductPrecision() const override { return 1e-13; }
  absl::StatusOr<at::Tensor> Apply(const at::Tensor& block) const override {
    return at::mm(matrix_, block);
  }

 private:
  at::Tensor matrix_;
};

// A risk over given tensors with a manifest that fits them.
EmpiricalRisk MakeRisk(Network network, const Likelihood& likelihood, at::Tensor inputs,
                       at::Tensor targets);

}  // namespace laplaced::reference
