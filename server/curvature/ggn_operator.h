// Curvature of Gauss-Newton form of a batch as an operator: mean over n of J_n' M_n J_n, exactly.
//
// M_n [C, C] is the likelihood's Hessian in the outputs (GGN), or L_n L_n' with the factor of
// output_factor.h (MC_FISHER, EMPIRICAL_FISHER). One product is a forward-mode pass (J v), M_n in
// the outputs, and a reverse pass (J' s): about one gradient plus one forward pass. The batch goes
// through in chunks (ProductChunk); memory does not grow with it beyond its inputs.
// References the risk, which must outlive it; not thread-safe (it replaces parameters of the risk's
// network while it runs).
#pragma once

#include <ATen/ATen.h>

#include "server/curvature/empirical_risk.h"
#include "server/curvature/output_factor.h"
#include "server/linalg/linear_operator.h"

namespace laplaced {

class GgnOperator : public LinearOperator {
 public:
  // Mean over the examples `rows` [n > 0] int64 of the risk's data. REQUIRES: not HESSIAN. Throws
  // LibTorch exceptions.
  GgnOperator(const EmpiricalRisk& risk, const at::Tensor& rows, const CurvatureSpec& spec = {});

  int64_t Rows() const override { return risk_.network.n_parameters(); }
  int64_t Cols() const override { return Rows(); }
  bool SelfAdjoint() const override { return true; }
  double ProductPrecision() const override {
    return risk_.network.dtype() == at::kDouble ? 1e-13 : 1e-6;
  }
  absl::StatusOr<at::Tensor> Apply(const at::Tensor& block) const override;

 private:
  absl::StatusOr<at::Tensor> ApplyOne(const at::Tensor& v) const;
  // M_n (J_n v) for the examples [begin, begin + B) of the batch: f, jv [B, C] -> [B, C].
  at::Tensor ApplyInOutputs(int64_t begin, const at::Tensor& f, const at::Tensor& jv) const;

  const EmpiricalRisk& risk_;
  const int64_t n_;        // examples of the batch, on all ranks
  const at::Tensor rows_;  // those that are here, and where
  const int64_t chunk_;    // examples at a time
  const CurvatureSpec spec_;
  const at::Tensor inputs_;  // network inputs of those that are here
};

}  // namespace laplaced
