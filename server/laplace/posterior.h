// The debiased low-rank Laplace posterior N(theta_map, Sigma) as an immutable value.
//
//   Sigma^-1 = U diag(N lambda + delta) U' + (delta + N rho) (I - U U')
//
// U [P, K] orthonormal directions, lambda [K] mean curvature along them, rho mean curvature per
// remaining dimension, N the number of training examples, delta the prior precision. lambda and rho
// are means over examples; N enters here and only here. Changing delta costs O(K): With... members
// return new values. Thread-safe.
//
// Sources: Woodbury and determinant lemma; residual completion: the trace of the mean curvature
// that the directions leave over, spread evenly, rho = max(0, tr G - sum lambda) / (P - K).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

#include "server/linalg/low_rank_plus_scalar.h"

namespace laplaced {

struct LowRankPosterior {
  at::Tensor directions;       // U, [P, K], network precision
  at::Tensor curvature;        // lambda, [K], fp64, >= 0
  double residual = 0;         // rho >= 0
  int64_t n_data = 0;          // N
  double prior_precision = 1;  // delta > 0

  int64_t n_parameters() const { return directions.size(0); }
  int64_t rank() const { return directions.size(1); }

  LowRankPosterior WithPriorPrecision(double delta) const;

  LowRankPlusScalar Precision() const;
  LowRankPlusScalar Covariance() const;

  // V_n = J_n Sigma J_n' for every example, [B, C, C] fp64, from T = J U [B, C, K] and G = J J' [B,
  // C, C]: (G - T T') / (delta + N rho) + T diag(1 / (N lambda + delta)) T', symmetric and with a
  // non-negative diagonal.
  at::Tensor FunctionalCovariance(const at::Tensor& t, const at::Tensor& g) const;
  // diag V_n alone, [B, C].
  at::Tensor FunctionalVariance(const at::Tensor& t, const at::Tensor& g) const;

  // theta - theta_map for standard normal noise [P, S]: Sigma^(1/2) noise, symmetric root.
  at::Tensor Deviations(const at::Tensor& noise) const;

  // log det Sigma^-1.
  double LogDetPrecision() const;

  // Effective number of parameters: tr(I - delta Sigma), between 0 and P.
  double EffectiveParameters() const;

  // log p(D) = -sum of losses - delta/2 ||theta||^2 + P/2 log delta - 1/2 log det Sigma^-1, in
  // nats; the prior is N(0, I/delta). `sum_loss` includes all constants of the likelihood
  // (likelihood.h).
  double LogMarginalLikelihood(double sum_loss, double parameter_norm_squared) const;
};

// rho for a measured trace; see above. 0 when K = P.
double IsotropicResidual(double trace, const at::Tensor& curvature, int64_t n_parameters);

}  // namespace laplaced
