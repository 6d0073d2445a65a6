#include "server/laplace/regularised_objective.h"

#include <utility>

#include "server/curvature/curvature_operator.h"
#include "server/curvature/mean_gradient.h"
#include "server/linalg/status_macros.h"

namespace laplaced {
namespace {

class RegularisedOperator : public LinearOperator {
 public:
  RegularisedOperator(std::unique_ptr<LinearOperator> loss, at::Tensor decay)
      : loss_(std::move(loss)), decay_(std::move(decay)) {}

  int64_t Rows() const override { return loss_->Rows(); }
  int64_t Cols() const override { return loss_->Cols(); }
  bool SelfAdjoint() const override { return loss_->SelfAdjoint(); }
  double ProductPrecision() const override { return loss_->ProductPrecision(); }
  absl::StatusOr<at::Tensor> Apply(const at::Tensor& block) const override {
    LAPLACED_ASSIGN_OR_RETURN(const at::Tensor product, loss_->Apply(block));
    return product + decay_.unsqueeze(1) * block;
  }

 private:
  const std::unique_ptr<LinearOperator> loss_;
  const at::Tensor decay_;
};

}  // namespace

at::Tensor WeightDecayVector(const Network& network, const Manifest& manifest) {
  at::Tensor decay = at::zeros({network.n_parameters()}, at::kDouble);
  for (const Parameter& p : network.parameters()) {
    const bool bias = p.value.dim() <= 1;
    const at::Tensor part = decay.narrow(0, p.offset, p.value.numel());
    part.fill_(bias ? manifest.bias_weight_decay : manifest.weight_decay);
    for (const int64_t row : p.constant_rows) part.view(p.value.sizes())[row].zero_();
  }
  return decay;
}

absl::StatusOr<at::Tensor> RegularisedGradient(const EmpiricalRisk& risk, const at::Tensor& rows) {
  LAPLACED_ASSIGN_OR_RETURN(const at::Tensor gradient, MeanGradient(risk, rows));
  return gradient + WeightDecayVector(risk.network, risk.manifest) * risk.network.FlatParameters();
}

std::unique_ptr<LinearOperator> MakeRegularisedOperator(const EmpiricalRisk& risk,
                                                        const at::Tensor& rows,
                                                        const CurvatureSpec& spec) {
  return std::make_unique<RegularisedOperator>(MakeCurvatureOperator(risk, rows, spec),
                                               WeightDecayVector(risk.network, risk.manifest));
}

}  // namespace laplaced
