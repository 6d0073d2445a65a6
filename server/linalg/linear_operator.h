// A linear map that is known only through its products: what Lanczos and its relatives need of a
// curvature matrix.
//
// Implementations own or reference what they need; Apply is const but may be expensive and is not
// assumed thread-safe.
#pragma once

#include <ATen/ATen.h>

#include "absl/status/statusor.h"

namespace laplaced {

class LinearOperator {
 public:
  virtual ~LinearOperator() = default;

  virtual int64_t Rows() const = 0;
  virtual int64_t Cols() const = 0;
  virtual bool SelfAdjoint() const = 0;

  // Relative size of the rounding errors in a product: about 1e-6 if it is computed in fp32, 1e-13
  // in fp64.
  virtual double ProductPrecision() const = 0;

  // A * block for block [Cols, m] in fp64; the answer is [Rows, m] in fp64. Inside, the product may
  // be computed in the network's own precision.
  virtual absl::StatusOr<at::Tensor> Apply(const at::Tensor& block) const = 0;
};

}  // namespace laplaced
