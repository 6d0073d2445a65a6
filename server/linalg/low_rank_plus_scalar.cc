#include "server/linalg/low_rank_plus_scalar.h"

#include <cmath>

namespace laplaced {

at::Tensor LowRankPlusScalar::Apply(const at::Tensor& block) const {
  const at::Tensor w = weights.to(directions.scalar_type()).unsqueeze(1);
  return scalar * block + at::mm(directions, w * at::mm(directions.t(), block));
}

LowRankPlusScalar LowRankPlusScalar::Inverse() const {
  return {directions, 1 / (weights + scalar) - 1 / scalar, 1 / scalar};
}

LowRankPlusScalar LowRankPlusScalar::SquareRoot() const {
  const double root = std::sqrt(scalar);
  return {directions, (weights + scalar).sqrt() - root, root};
}

double LowRankPlusScalar::LogDet() const {
  return (weights + scalar).log().sum().item<double>() +
         static_cast<double>(size() - rank()) * std::log(scalar);
}

at::Tensor LowRankPlusScalar::Dense() const { return Apply(at::eye(size(), directions.options())); }

}  // namespace laplaced
