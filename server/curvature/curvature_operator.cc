#include "server/curvature/curvature_operator.h"

#include "server/curvature/ggn_operator.h"
#include "server/curvature/hessian_operator.h"

namespace laplaced {

std::unique_ptr<LinearOperator> MakeCurvatureOperator(const EmpiricalRisk& risk,
                                                      const at::Tensor& rows,
                                                      const CurvatureSpec& spec) {
  if (spec.kind == CurvatureKind::kHessian) return std::make_unique<HessianOperator>(risk, rows);
  return std::make_unique<GgnOperator>(risk, rows, spec);
}

}  // namespace laplaced
