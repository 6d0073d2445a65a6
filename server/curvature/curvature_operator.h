// The operator for a kind of curvature.
#pragma once

#include <ATen/ATen.h>

#include <memory>

#include "server/curvature/empirical_risk.h"
#include "server/curvature/output_factor.h"
#include "server/linalg/linear_operator.h"

namespace laplaced {

// Mean curvature over the examples `rows` [n > 0] int64 of the risk's data: [P, P], self-adjoint,
// and positive semi-definite but for HESSIAN. The answer references the risk; not thread-safe (it
// may replace parameters of the risk's network while it runs). Throws LibTorch exceptions.
std::unique_ptr<LinearOperator> MakeCurvatureOperator(const EmpiricalRisk& risk,
                                                      const at::Tensor& rows,
                                                      const CurvatureSpec& spec);

}  // namespace laplaced
