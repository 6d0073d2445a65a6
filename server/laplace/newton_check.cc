// What can be wrong with a Newton step before it runs.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "server/laplace/newton_step.h"
#include "server/linalg/status_macros.h"
#include "server/model/field_error.h"

namespace laplaced {
namespace {

constexpr int64_t kMostSteps = 1000;

absl::Status CheckSize(const char* field, int64_t size, int64_t least) {
  if (size >= least) return absl::OkStatus();
  return FieldError(field, absl::StrCat("expected at least ", least, ", got ", size));
}

absl::Status CheckBatches(const EmpiricalRisk& risk, const Dataset& held_out,
                          const NewtonOptions& options) {
  const bool oracle = options.variant == NewtonVariant::kOracle;
  const bool second = UsesSecondBatch(options.variant), own = held_out.size() == 0;
  if (!oracle) {
    LAPLACED_RETURN_IF_ERROR(
        CheckSize("options.direction_batch_size", options.direction_batch_size, 1));
  }
  if (second) {
    LAPLACED_RETURN_IF_ERROR(
        CheckSize("options.curvature_batch_size", options.curvature_batch_size, 1));
  }
  if (own) LAPLACED_RETURN_IF_ERROR(CheckSize("options.held_out_size", options.held_out_size, 4));
  if (!own) LAPLACED_RETURN_IF_ERROR(CheckSize("held_out_dataset_id", held_out.size(), 4));
  // Numbers from a request, whose sum need not fit into their type.
  const double needed = (oracle ? 1.0 : static_cast<double>(options.direction_batch_size)) +
                        (second ? static_cast<double>(options.curvature_batch_size) : 0.0) +
                        (own ? static_cast<double>(options.held_out_size) : 0.0);
  if (needed <= static_cast<double>(risk.size())) return absl::OkStatus();
  return FieldError(second ? "options.curvature_batch_size" : "options.direction_batch_size",
                    absl::StrCat("the batches", own ? " and the held-out examples" : "", " need ",
                                 needed, " distinct examples, the training data has ", risk.size(),
                                 ": choose smaller ones",
                                 own ? ", or give a data set of held-out examples" : ""));
}

}  // namespace

bool UsesSecondBatch(NewtonVariant variant) {
  return variant == NewtonVariant::kDebiased || variant == NewtonVariant::kEqualBudget;
}

absl::Status CheckNewton(const EmpiricalRisk& risk, const Dataset& held_out,
                         const NewtonOptions& options) {
  LAPLACED_RETURN_IF_ERROR(CheckData(risk, "train_dataset_id", risk.data));
  if (held_out.size() > 0) {
    LAPLACED_RETURN_IF_ERROR(CheckData(risk, "held_out_dataset_id", held_out));
  }
  if (options.curvature != CurvatureKind::kGgn && options.curvature != CurvatureKind::kHessian) {
    return FieldError("options.curvature", "expected GGN or HESSIAN");
  }
  if (options.max_steps < 1 || options.max_steps > kMostSteps) {
    return FieldError("options.max_steps",
                      absl::StrCat("expected 1 to ", kMostSteps, ", got ", options.max_steps));
  }
  if (!(std::isfinite(options.damping) && options.damping >= 0)) {
    return FieldError("options.damping",
                      absl::StrCat("expected a number >= 0, got ", options.damping));
  }
  if (!(options.tolerance >= 0 && options.tolerance < 1)) {
    return FieldError("options.tolerance",
                      absl::StrCat("expected a number in [0, 1), got ", options.tolerance));
  }
  LAPLACED_RETURN_IF_ERROR(CheckBatches(risk, held_out, options));
  if (risk.likelihood.kind == Likelihood::Kind::kGaussian && !(risk.likelihood.sigma_noise > 0)) {
    return absl::FailedPreconditionError(
        "the model's manifest states no sigma_noise, without which the loss has no scale beside "
        "the weight decay: write the standard deviation of the noise into model.json");
  }
  return absl::OkStatus();
}

}  // namespace laplaced
