// The Hessian of the mean loss of a batch in the parameters, as an operator.
//
// A product is the gradient of <gradient, v>: a forward pass, and two reverse passes of which the
// first builds a graph. The columns of a block share all but the last pass. The batch
// goes through in chunks (ProductChunk), whose graph takes several times the memory of a gradient.
// Self-adjoint; may be indefinite (it is the GGN plus the curvature of the network itself, weighted
// by the residuals). References the risk, which must outlive it; thread-safe.
#pragma once

#include <ATen/ATen.h>

#include "server/curvature/empirical_risk.h"
#include "server/linalg/linear_operator.h"

namespace laplaced {

class HessianOperator : public LinearOperator {
 public:
  // Mean over the examples `rows` [n > 0] int64 of the risk's data. Throws LibTorch exceptions.
  HessianOperator(const EmpiricalRisk& risk, const at::Tensor& rows);

  int64_t Rows() const override { return risk_.network.n_parameters(); }
  int64_t Cols() const override { return Rows(); }
  bool SelfAdjoint() const override { return true; }
  double ProductPrecision() const override {
    return risk_.network.dtype() == at::kDouble ? 1e-13 : 1e-6;
  }
  absl::StatusOr<at::Tensor> Apply(const at::Tensor& block) const override;

 private:
  const EmpiricalRisk& risk_;
  const int64_t n_;      // examples of the batch, on all ranks
  const Dataset batch_;  // those that are here
  const int64_t chunk_;  // examples at a time
};

}  // namespace laplaced
