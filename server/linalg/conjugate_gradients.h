// Minimising a quadratic q(x) = g'x + x'(A + damping I)x / 2, starting at x = 0, by conjugate
// gradients, and minimising another quadratic along the directions that this one chose.
//
// The second is the debiased iterate. With A and g from one batch B1 the directions fit that
// batch's noise: along them, its slopes and curvatures are systematically too large (Tatzel,
// Mucsanyi, Hackel, Hennig: Debiasing Mini-Batch Quadratics for Applications in Deep Learning, ICLR
// 2025). So B1 chooses the directions d_k, and an independent batch B2 says how far to go along
// each:
//   s_k = d_k'(g2 + (A2 + damping I) x_k),  c_k = d_k'(A2 + damping I)d_k,  x_{k+1} = x_k - s_k/c_k
//   d_k
// with the slope at the *current* iterate, so that the directions need not be conjugate for A2.
// Where B2 has no positive curvature (c_k is not above the rounding of its own product) the
// quadratic has no minimum along d_k, and the direction is skipped. If B2 = B1, this is conjugate
// gradients.
//
// Everything but the operator's products is fp64. Free functions on values; thread-safe if the
// operator is.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/linalg/linear_operator.h"

namespace laplaced {

// What was found along one direction d, at the iterate before it.
struct DirectionStep {
  double slope = 0;      // d'(g + (A + damping I) x); negative: downhill
  double curvature = 0;  // d'(A + damping I)d
  double length = 0;     // the step is `length` * d; 0 if the direction was skipped
  bool skipped = false;  // the curvature was not positive
};

// Directions and how far to go along them. After k of them the iterate is the sum of the first k
// steps.
struct DirectionSteps {
  at::Tensor directions;  // [n, K] fp64
  std::vector<DirectionStep> steps;

  int64_t size() const { return static_cast<int64_t>(steps.size()); }
  int64_t skipped() const;
  // x_k [n] fp64, 0 <= k <= size().
  at::Tensor Iterate(int64_t k) const;
};

struct CgOptions {
  int64_t max_steps = 25;
  double damping = 0;    // >= 0
  double tolerance = 0;  // ends when ||residual|| <= tolerance * ||g||; 0: only at rounding level
  // Called after every step with how many there are; an error ends the run with that error
  // (cancellation).
  std::function<absl::Status(int64_t steps)> on_step = nullptr;
};

enum class CgEnd {
  kSteps,       // max_steps
  kResidual,    // the quadratic is minimised, to the tolerance or to rounding
  kIndefinite,  // no positive curvature along the next direction: it is not among the answer's
};

struct CgResult {
  DirectionSteps path;  // directions d_0 = -g, d_1, ... as they come, not normalised
  CgEnd end = CgEnd::kSteps;
  double residual = 0;  // ||g + (A + damping I) x|| at the end
  int64_t products = 0;
};

// Algorithm 5.2 of Nocedal & Wright, Numerical Optimization (2nd ed., 2006), for (A + damping I) x
// = -gradient, gradient [n] fp64. A zero gradient has an empty path. Keeps n * max_steps doubles.
// INVALID_ARGUMENT if the operator is not square and self-adjoint, the gradient is not of its size,
// max_steps < 1, or damping or tolerance is negative or not finite; FAILED_PRECONDITION if the
// gradient or a product is not finite; errors of Apply and on_step are passed on.
absl::StatusOr<CgResult> ConjugateGradients(const LinearOperator& op, const at::Tensor& gradient,
                                            const CgOptions& options);

// Minimises q along each of `directions` [n, K] fp64, one after the other: K products. Errors
// likewise.
absl::StatusOr<DirectionSteps> MinimiseAlong(
    const LinearOperator& op, const at::Tensor& gradient, const at::Tensor& directions,
    double damping, const std::function<absl::Status(int64_t steps)>& on_step = nullptr);

}  // namespace laplaced
