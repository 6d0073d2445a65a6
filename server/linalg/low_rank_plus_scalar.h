// The matrix A = scalar * I + U diag(weights) U' with orthonormal U: closed under inverse and
// square root in O(K).
//
// Posterior precision, covariance and the sampler's square root are all of this form (method of a
// "low rank plus scalar" algebra); applying one costs two products with U. An immutable value:
// tensors are shared, never written. Thread-safe.
#pragma once

#include <ATen/ATen.h>

namespace laplaced {

struct LowRankPlusScalar {
  at::Tensor directions;  // U, [n, K], orthonormal columns
  at::Tensor weights;     // [K], fp64
  double scalar = 1;  // so that eigenvalues are scalar + weights (along U) and scalar (elsewhere)

  int64_t size() const { return directions.size(0); }
  int64_t rank() const { return directions.size(1); }

  // A * block, block [n, m], in the precision of `directions`.
  at::Tensor Apply(const at::Tensor& block) const;

  // REQUIRES for both: positive definite (scalar > 0 and scalar + weights > 0).
  LowRankPlusScalar Inverse() const;
  LowRankPlusScalar SquareRoot() const;  // the symmetric positive root

  // sum log(scalar + weights) + (n - K) log(scalar)
  double LogDet() const;

  // Dense [n, n], for tests and small problems.
  at::Tensor Dense() const;
};

}  // namespace laplaced
