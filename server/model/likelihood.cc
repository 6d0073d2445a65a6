#include "server/model/likelihood.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "formats/array.h"
#include "server/model/field_error.h"

namespace laplaced {

at::Tensor Likelihood::Loss(const at::Tensor& f, const at::Tensor& y) const {
  const at::Tensor f64 = f.to(at::kDouble);
  if (kind == Kind::kCategorical) {
    return at::logsumexp(f64, 1) - f64.gather(1, y.unsqueeze(1)).squeeze(1);
  }
  const double variance = sigma_noise * sigma_noise;
  return (f64 - y.to(at::kDouble)).square().sum(1) / (2 * variance) +
         0.5 * static_cast<double>(f.size(1)) * std::log(2 * M_PI * variance);
}

at::Tensor Likelihood::ApplyHessian(const at::Tensor& f, const at::Tensor& v) const {
  return ApplyHessianBlock(f, v.unsqueeze(2)).squeeze(2);
}

at::Tensor Likelihood::ApplyHessianBlock(const at::Tensor& f, const at::Tensor& v) const {
  if (kind == Kind::kGaussian) return v / (sigma_noise * sigma_noise);
  const at::Tensor p = at::softmax(f, 1).unsqueeze(2);
  return p * (v - (p * v).sum(1, /*keepdim=*/true));
}

at::Tensor Likelihood::Hessian(const at::Tensor& f) const {
  const at::Tensor identity = at::eye(f.size(1), f.options());
  return ApplyHessianBlock(f, identity.expand({f.size(0), -1, -1}));
}

absl::Status Likelihood::CheckTargets(const std::string& field, const at::Tensor& targets,
                                      int64_t n_outputs) const {
  const std::string shape = ShapeString(targets.sizes().vec());
  if (kind == Kind::kCategorical) {
    if (targets.scalar_type() != at::kLong || targets.dim() != 1) {
      return FieldError(field,
                        absl::StrCat("expected int64 class labels of shape [N], got ",
                                     at::toString(targets.scalar_type()), " of shape ", shape));
    }
    const at::Tensor bad = (targets < 0).logical_or(targets >= n_outputs);
    if (bad.any().item<bool>()) {
      const int64_t row = bad.nonzero()[0].item<int64_t>();
      return FieldError(
          field,
          absl::StrCat("row ", row, " has label ", targets[row].item<int64_t>(), ", expected 0 to ",
                       n_outputs - 1, " (the model has ", n_outputs, " classes)"));
    }
    return absl::OkStatus();
  }
  if (!targets.is_floating_point() || targets.dim() != 2 || targets.size(1) != n_outputs) {
    return FieldError(
        field, absl::StrCat("expected floating-point targets of shape [N, ", n_outputs, "], got ",
                            at::toString(targets.scalar_type()), " of shape ", shape));
  }
  const at::Tensor bad = targets.isfinite().all(1).logical_not();
  if (bad.any().item<bool>()) {
    return FieldError(field, absl::StrCat("row ", bad.nonzero()[0].item<int64_t>(),
                                          " has a target that is not finite"));
  }
  return absl::OkStatus();
}

}  // namespace laplaced
