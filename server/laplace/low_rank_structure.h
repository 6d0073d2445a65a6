// Curvature along K directions plus a residual on the rest of parameter space:
//
//   H = U W U' + R
//
// U [P, K] has unit columns, W = share * diag(lambda). R is nothing, rho (I - U U+) (isotropic),
// rho_l on every parameter tensor l (layerwise), or a diagonal r. Directions need not be orthogonal
// (cross-fitting puts two sets next to each other; share is then 1/2).
//
// Everything is done with D = likelihood R' + prior K, the diagonal part of Sigma^-1 (R' = rho I
// for the isotropic residual, whose part along U moves into W), in the coordinates D^-1/2: with S =
// U' D^-1 U = R_s R_s' and M = (I + R_s' W' R_s)^-1,
//   Sigma = D^-1/2 [I - Q (I - M) Q'] D^-1/2,  Q = D^-1/2 U R_s'^-1 orthonormal,
// so that V = (J D^-1 J' - Y Y') + Y M Y' with Y = J D^-1/2 Q: two positive parts, no difference of
// large numbers. (Woodbury identity and determinant lemma.) Costs O(L K^2 + K^3) per change of
// precisions, except for the diagonal residual: O(P K^2).
//
// Variance correction: lambda has a standard error se, and E[1/(a + b lambda~)] > 1/(a + b lambda).
// With CV = likelihood se / (likelihood lambda + prior), the precision along a direction becomes
// (likelihood lambda + prior) (1 + CV^2), which removes the bias to second order.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "server/laplace/structure.h"

namespace laplaced {

enum class ResidualKind { kNone, kIsotropic, kLayerwise, kDiagonal };

struct LowRankCurvature {
  at::Tensor directions;       // U, [P, K], network precision, row-major
  at::Tensor curvature;        // lambda, [K] fp64, >= 0
  at::Tensor standard_errors;  // [K] fp64; undefined without variance correction
  double share = 1;
  ResidualKind residual_kind = ResidualKind::kNone;
  // fp64, >= 0: undefined, [1], [parameter tensors] or [P].
  at::Tensor residual;
  std::vector<int64_t> block_sizes;  // elements of each parameter tensor; they sum to P
  std::vector<double> prior_scale;   // K, one for each parameter tensor; empty: all 1
};

class LowRankStructure : public Structure {
 public:
  explicit LowRankStructure(LowRankCurvature curvature);

  const LowRankCurvature& curvature() const { return curvature_; }

  int64_t n_parameters() const override { return curvature_.directions.size(0); }
  // Directions that fill the space leave nothing outside.
  bool has_directions() const override {
    return curvature_.directions.size(1) < curvature_.directions.size(0);
  }
  double LogDetPrecision(const Precisions& at) const override;
  double EffectiveParameters(const Precisions& at) const override;
  at::Tensor Deviations(const Precisions& at, const at::Tensor& noise) const override;
  at::Tensor RowCovariance(const Precisions& at, const at::Tensor& jacobian) const override;
  double RowMacs() const override { return static_cast<double>(curvature_.directions.numel()); }
  absl::StatusOr<Linearized> Linearize(const Network& network, const CapturePlan& plan,
                                       const at::Tensor& x,
                                       const LinearizeRequest& request) const override;

 private:
  // Everything that depends on the precisions.
  struct Inner {
    at::Tensor diagonal;  // D, by group or by parameter, fp64
    // [K, k]: T^ to_q = Y for T^ = J D^-1 U; eigenvectors of M included. Undefined if it is
    // sqrt(D) I: orthonormal directions and one value of D.
    at::Tensor to_q;
    at::Tensor shrink;   // [k], eigenvalues of M
    double log_det = 0;  // of Sigma^-1
  };

  Inner Compute(const Precisions& at) const;
  at::Tensor ToQ(const Inner& inner, const at::Tensor& t) const;  // t to_q, for t [..., K]
  at::Tensor OutsideOf(const at::Tensor& squared_norm, const at::Tensor& t) const;
  // Compute, remembering the last few: requests come with the same precisions again and again.
  std::shared_ptr<const Inner> At(const Precisions& at) const;
  // U' diag(weights) U, [K, K] fp64, for weights by group or by parameter.
  at::Tensor WeightedGram(const at::Tensor& weights) const;
  // sum of weights over parameters, for weights by group or by parameter.
  double SumOverParameters(const at::Tensor& weights) const;
  at::Tensor PriorScale() const;  // K, by group or by parameter

  absl::StatusOr<Linearized> LinearizeGroups(const Network& network, const CapturePlan& plan,
                                             const at::Tensor& x,
                                             const LinearizeRequest& request) const;
  absl::StatusOr<Linearized> LinearizeDiagonal(const Network& network, const CapturePlan& plan,
                                               const at::Tensor& x,
                                               const LinearizeRequest& request) const;

  LowRankCurvature curvature_;
  // Parameter tensors that share one value of D form a group; with a diagonal residual there are
  // none.
  std::vector<int64_t> group_of_;
  std::vector<double> group_scale_;  // K
  at::Tensor group_sizes_;           // [L] fp64
  at::Tensor group_residual_;        // [L] fp64, R'
  at::Tensor grams_;                 // U_l' U_l, [L, K, K] fp64
  at::Tensor gram_;                  // U' U
  bool orthonormal_ = false;         // up to the rounding of U
  at::Tensor orthonormaliser_;       // [K, k]: U orthonormaliser_ is orthonormal; undefined if U is
  mutable std::mutex mutex_;
  mutable std::vector<std::pair<Precisions, std::shared_ptr<const Inner>>> recent_;
};

// rho for a measured trace: max(0, tr G - sum lambda) / (P - K), 0 when K >= P.
double IsotropicResidual(double trace, const at::Tensor& curvature, int64_t n_parameters);

// u_i' diag-block_l u_i for every parameter tensor and direction, [L, K] fp64: how much of each
// direction lies in each tensor.
at::Tensor BlockShares(const at::Tensor& directions, const std::vector<int64_t>& block_sizes);

}  // namespace laplaced
