#include "server/model/likelihood.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "formats/array.h"
#include "server/model/field_error.h"

namespace laplaced {
namespace {

absl::Status CheckClasses(const std::string& field, const at::Tensor& targets, int64_t n_outputs,
                          int64_t first_row) {
  if (targets.scalar_type() != at::kLong || targets.dim() != 1) {
    return FieldError(field, absl::StrCat("expected int64 class labels of shape [N], got ",
                                          at::toString(targets.scalar_type()), " of shape ",
                                          ShapeString(targets.sizes().vec())));
  }
  const at::Tensor bad = (targets < 0).logical_or(targets >= n_outputs);
  if (!bad.any().item<bool>()) return absl::OkStatus();
  const int64_t row = bad.nonzero()[0].item<int64_t>();
  return FieldError(field, absl::StrCat("row ", first_row + row, " has label ",
                                        targets[row].item<int64_t>(), ", expected 0 to ",
                                        n_outputs - 1, " (the model has ", n_outputs, " classes)"));
}

}  // namespace

at::Tensor Likelihood::Loss(const at::Tensor& f, const at::Tensor& y) const {
  const at::Tensor f64 = f.to(at::kDouble);
  switch (kind) {
    case Kind::kCategorical:
      return at::logsumexp(f64, 1) - f64.gather(1, y.unsqueeze(1)).squeeze(1);
    case Kind::kBernoulli: {
      // softplus(f) - y f = y softplus(-f) + (1 - y) softplus(f): sums terms >= 0, so nothing
      // cancels. log_sigmoid, because at::softplus is off by 2e-9 beyond its threshold.
      const at::Tensor y64 = y.to(at::kDouble);
      return -(y64 * at::log_sigmoid(f64) + (1 - y64) * at::log_sigmoid(-f64)).sum(1);
    }
    case Kind::kGaussian:
      break;
  }
  const double variance = sigma_noise * sigma_noise;
  return (f64 - y.to(at::kDouble)).square().sum(1) / (2 * variance) +
         0.5 * static_cast<double>(f.size(1)) * std::log(2 * M_PI * variance);
}

at::Tensor Likelihood::LossGradient(const at::Tensor& f, const at::Tensor& y) const {
  const at::Tensor f64 = f.to(at::kDouble);
  at::Tensor gradient;
  switch (kind) {
    case Kind::kCategorical:
      gradient = at::softmax(f64, 1) - at::one_hot(y, f.size(1));
      break;
    case Kind::kBernoulli: {
      const at::Tensor y64 = y.to(at::kDouble);
      gradient = (1 - y64) * at::sigmoid(f64) - y64 * at::sigmoid(-f64);
      break;
    }
    case Kind::kGaussian:
      gradient = (f64 - y.to(at::kDouble)) / (sigma_noise * sigma_noise);
      break;
  }
  return gradient.to(f.scalar_type());
}

at::Tensor Likelihood::ApplyHessian(const at::Tensor& f, const at::Tensor& v) const {
  return ApplyHessianBlock(f, v.unsqueeze(2)).squeeze(2);
}

at::Tensor Likelihood::ApplyHessianBlock(const at::Tensor& f, const at::Tensor& v) const {
  switch (kind) {
    case Kind::kCategorical: {
      const at::Tensor p = at::softmax(f, 1).unsqueeze(2);
      return p * (v - (p * v).sum(1, /*keepdim=*/true));
    }
    case Kind::kBernoulli:
      return (at::sigmoid(f) * at::sigmoid(-f)).unsqueeze(2) * v;
    case Kind::kGaussian:
      break;
  }
  return v / (sigma_noise * sigma_noise);
}

at::Tensor Likelihood::Hessian(const at::Tensor& f) const {
  const at::Tensor identity = at::eye(f.size(1), f.options());
  return ApplyHessianBlock(f, identity.expand({f.size(0), -1, -1}));
}

absl::Status Likelihood::CheckTargets(const std::string& field, const at::Tensor& targets,
                                      int64_t n_outputs, int64_t first_row) const {
  if (kind == Kind::kCategorical) return CheckClasses(field, targets, n_outputs, first_row);
  const bool labels = kind == Kind::kBernoulli;
  if (!targets.is_floating_point() || targets.dim() != 2 || targets.size(1) != n_outputs) {
    return FieldError(field, absl::StrCat("expected floating-point ",
                                          labels ? "labels in [0, 1]" : "targets", " of shape [N, ",
                                          n_outputs, "], got ", at::toString(targets.scalar_type()),
                                          " of shape ", ShapeString(targets.sizes().vec())));
  }
  if (labels) {
    const at::Tensor bad = (targets >= 0).logical_and(targets <= 1).logical_not();  // NaN too
    if (!bad.any().item<bool>()) return absl::OkStatus();
    const at::Tensor first = bad.nonzero()[0];
    const int64_t row = first[0].item<int64_t>(), column = first[1].item<int64_t>();
    return FieldError(
        field, absl::StrCat("row ", first_row + row, ", column ", column, " is ",
                            targets[row][column].item<double>(), ", expected a number in [0, 1]"));
  }
  const at::Tensor bad = targets.isfinite().all(1).logical_not();
  if (bad.any().item<bool>()) {
    return FieldError(field, absl::StrCat("row ", first_row + bad.nonzero()[0].item<int64_t>(),
                                          " has a target that is not finite"));
  }
  return absl::OkStatus();
}

}  // namespace laplaced
