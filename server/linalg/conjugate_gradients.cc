#include "server/linalg/conjugate_gradients.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/linalg/status_macros.h"

namespace laplaced {
namespace {

double Dot(const at::Tensor& a, const at::Tensor& b) { return at::dot(a, b).item<double>(); }

bool NotNegative(double x) { return std::isfinite(x) && x >= 0; }

absl::Status CheckProblem(const LinearOperator& op, const at::Tensor& gradient, double damping) {
  if (!op.SelfAdjoint() || op.Rows() != op.Cols()) {
    return absl::InvalidArgumentError("conjugate gradients need a self-adjoint operator");
  }
  if (gradient.dim() != 1 || gradient.size(0) != op.Rows() ||
      gradient.scalar_type() != at::kDouble) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected a gradient of ", op.Rows(), " doubles"));
  }
  if (!NotNegative(damping)) {
    return absl::InvalidArgumentError(absl::StrCat("expected damping >= 0, got ", damping));
  }
  if (!gradient.isfinite().all().item<bool>()) {
    return absl::FailedPreconditionError("the gradient is not finite");
  }
  return absl::OkStatus();
}

absl::StatusOr<at::Tensor> Product(const LinearOperator& op, double damping, const at::Tensor& d) {
  LAPLACED_ASSIGN_OR_RETURN(const at::Tensor block, op.Apply(d.unsqueeze(1)));
  const at::Tensor product = block.select(1, 0) + d * damping;
  if (!product.isfinite().all().item<bool>()) {
    return absl::FailedPreconditionError("a curvature product is not finite");
  }
  return product;
}

// Rounding of d'h, where h is a product of the operator with d.
double Rounding(const LinearOperator& op, const at::Tensor& d, const at::Tensor& h) {
  return op.ProductPrecision() * std::sqrt(Dot(d, d) * Dot(h, h));
}

}  // namespace

int64_t DirectionSteps::skipped() const {
  return std::count_if(steps.begin(), steps.end(), [](const auto& step) { return step.skipped; });
}

at::Tensor DirectionSteps::Iterate(int64_t k) const {
  at::Tensor lengths = at::empty({k}, at::kDouble);
  for (int64_t i = 0; i < k; ++i) lengths[i] = steps[static_cast<size_t>(i)].length;
  return at::mv(directions.narrow(1, 0, k), lengths);
}

absl::StatusOr<CgResult> ConjugateGradients(const LinearOperator& op, const at::Tensor& gradient,
                                            const CgOptions& options) {
  LAPLACED_RETURN_IF_ERROR(CheckProblem(op, gradient, options.damping));
  if (options.max_steps < 1 || !NotNegative(options.tolerance)) {
    return absl::InvalidArgumentError("expected max_steps >= 1 and tolerance >= 0");
  }
  CgResult result;
  std::vector<at::Tensor> directions;
  at::Tensor residual = gradient.clone();  // g + (A + damping I) x
  double squared = Dot(residual, residual);
  // Below this a residual is made of the rounding of its updates.
  const double least =
      std::max(options.tolerance, std::numeric_limits<double>::epsilon()) * std::sqrt(squared);
  at::Tensor d = -residual;
  result.end = CgEnd::kResidual;
  while (std::sqrt(squared) > least) {
    if (static_cast<int64_t>(directions.size()) == options.max_steps) {
      result.end = CgEnd::kSteps;
      break;
    }
    LAPLACED_ASSIGN_OR_RETURN(const at::Tensor h, Product(op, options.damping, d));
    ++result.products;
    const double curvature = Dot(d, h);
    if (!(curvature > Rounding(op, d, h))) {
      result.end = CgEnd::kIndefinite;
      break;
    }
    const double length = squared / curvature;
    result.path.steps.push_back({Dot(d, residual), curvature, length, false});
    directions.push_back(d);
    residual = residual + h * length;
    const double next = Dot(residual, residual);
    d = d * (next / squared) - residual;
    squared = next;
    if (options.on_step) {
      LAPLACED_RETURN_IF_ERROR(options.on_step(static_cast<int64_t>(directions.size())));
    }
  }
  result.residual = std::sqrt(squared);
  result.path.directions =
      directions.empty() ? at::zeros({gradient.size(0), 0}, at::kDouble) : at::stack(directions, 1);
  return result;
}

absl::StatusOr<DirectionSteps> MinimiseAlong(
    const LinearOperator& op, const at::Tensor& gradient, const at::Tensor& directions,
    double damping, const std::function<absl::Status(int64_t steps)>& on_step) {
  LAPLACED_RETURN_IF_ERROR(CheckProblem(op, gradient, damping));
  if (directions.dim() != 2 || directions.size(0) != op.Rows() ||
      directions.scalar_type() != at::kDouble) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected directions of ", op.Rows(), " doubles"));
  }
  DirectionSteps result{directions, {}};
  at::Tensor residual = gradient.clone();  // g + (A + damping I) x
  for (int64_t k = 0; k < directions.size(1); ++k) {
    const at::Tensor d = directions.select(1, k).contiguous();
    LAPLACED_ASSIGN_OR_RETURN(const at::Tensor h, Product(op, damping, d));
    DirectionStep step{Dot(d, residual), Dot(d, h), 0, false};
    step.skipped = !(step.curvature > Rounding(op, d, h));
    if (!step.skipped) step.length = -step.slope / step.curvature;
    residual = residual + h * step.length;
    result.steps.push_back(step);
    if (on_step) LAPLACED_RETURN_IF_ERROR(on_step(k + 1));
  }
  return result;
}

}  // namespace laplaced
