// The generalised Gauss-Newton matrix of a batch as an operator: G = mean over n of J_n' Lambda_n
// J_n, exactly.
//
// One product is a forward-mode pass (J v), the likelihood's Hessian in the outputs, and a reverse
// pass (J' s): about one gradient plus one forward pass. References the risk, which must outlive
// it; not thread-safe (it replaces parameters of the risk's network while it runs).
#pragma once

#include <ATen/ATen.h>

#include "server/curvature/empirical_risk.h"
#include "server/linalg/linear_operator.h"

namespace laplaced {

class GgnOperator : public LinearOperator {
 public:
  // Mean over the examples `rows` [n] of the risk's data.
  GgnOperator(const EmpiricalRisk& risk, const at::Tensor& rows);

  int64_t Rows() const override { return risk_.network.n_parameters(); }
  int64_t Cols() const override { return Rows(); }
  bool SelfAdjoint() const override { return true; }
  double ProductPrecision() const override {
    return risk_.network.dtype() == at::kDouble ? 1e-13 : 1e-6;
  }
  absl::StatusOr<at::Tensor> Apply(const at::Tensor& block) const override;

 private:
  at::Tensor ApplyOne(const at::Tensor& v) const;

  const EmpiricalRisk& risk_;
  at::Tensor inputs_;  // network inputs of the batch
};

}  // namespace laplaced
