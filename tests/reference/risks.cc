#include "tests/reference/risks.h"

#include "tests/reference/dense.h"
#include "tests/reference/networks.h"

namespace laplaced::reference {

std::vector<RiskCase> RiskCases() {
  const Likelihood categorical, gaussian{Likelihood::Kind::kGaussian, 0.7},
      bernoulli{Likelihood::Kind::kBernoulli};
  const at::Tensor labels = at::arange(12, at::kLong).remainder(3);
  at::Tensor bits = (RandomNormal({12, 3}, 2) > 0).to(at::kDouble);
  bits[4][1] = 0.3;  // a soft label
  return {{"mlp", MakeRisk(TanhMlp(4, 5, 3), categorical, RandomNormal({12, 4}, 1), labels)},
          {"mlp gaussian", MakeRisk(TanhMlp(4, 5, 2), gaussian, RandomNormal({12, 4}, 1),
                                    RandomNormal({12, 2}, 2))},
          {"mlp bernoulli", MakeRisk(TanhMlp(4, 5, 3), bernoulli, RandomNormal({12, 4}, 1), bits)},
          {"conv, in-place relu",
           MakeRisk(ConvNet(3), categorical, RandomNormal({12, 2, 6, 6}, 3), labels)}};
}

std::vector<CurvatureSpec> CurvatureSpecs() {
  return {{CurvatureKind::kGgn},
          {CurvatureKind::kMcFisher, /*fisher_samples=*/3, /*seed=*/7},
          {CurvatureKind::kEmpiricalFisher},
          {CurvatureKind::kHessian}};
}

at::Tensor AllRows(const EmpiricalRisk& risk) { return at::arange(risk.size(), at::kLong); }

}  // namespace laplaced::reference
