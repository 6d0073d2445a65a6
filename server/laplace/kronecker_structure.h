// Curvature in blocks, one per parameter tensor, each with an orthonormal eigenbasis and
// eigenvalues lambda:
//
//   H = blockdiag(Q_l diag(lambda_l) Q_l'),   Sigma^-1 = Q diag(likelihood lambda + prior K) Q'
//
// Q_l is a Kronecker product of two small bases for the weights of linear and convolutional layers
// (kronecker_factors.h). V is a sum over parameters in the eigenbasis, positive by construction;
// changing the precisions costs O(P).
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "server/curvature/kronecker_factors.h"
#include "server/laplace/structure.h"

namespace laplaced {

struct KroneckerCurvature {
  std::vector<BlockBasis> bases;    // one for each parameter tensor
  std::vector<at::Tensor> values;   // lambda, [numel] fp64 >= 0 each
  std::vector<double> prior_scale;  // K, one for each parameter tensor; empty: all 1
};

class KroneckerStructure : public Structure {
 public:
  // `precision` is the network's: bases are kept in it.
  KroneckerStructure(KroneckerCurvature curvature, at::ScalarType precision);

  const KroneckerCurvature& curvature() const { return curvature_; }

  int64_t n_parameters() const override { return values_.size(0); }
  bool has_directions() const override { return false; }
  double LogDetPrecision(const Precisions& at) const override;
  double EffectiveParameters(const Precisions& at) const override;
  at::Tensor Deviations(const Precisions& at, const at::Tensor& noise) const override;
  at::Tensor RowCovariance(const Precisions& at, const at::Tensor& jacobian) const override;
  double RowMacs() const override;
  absl::StatusOr<Linearized> Linearize(const Network& network, const CapturePlan& plan,
                                       const at::Tensor& x,
                                       const LinearizeRequest& request) const override;

 private:
  at::Tensor Eigenprecisions(const Precisions& at) const;  // [P] fp64

  KroneckerCurvature curvature_;
  at::Tensor values_;  // [P]
  at::Tensor scale_;   // K, [P]
};

}  // namespace laplaced
