// What a fit has measured, before any prior: enough to build the posterior's structure, to say how
// good it is, to add more data, and to be stored.
//
// Implementations: low_rank_fit.h, kronecker_fit.h, last_layer_fit.h. Immutable values;
// thread-safe.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/curvature/empirical_risk.h"
#include "server/curvature/output_factor.h"
#include "server/laplace/structure.h"
#include "server/laplace/tensor_map.h"
#include "server/model/layer_capture.h"

namespace laplaced {

// One parameter tensor.
struct BlockReport {
  int64_t n_parameters = 0;
  std::string kind;  // "directions", "kronecker", "dense", "diagonal"
  double trace = 0;
  double residual = 0;  // mean curvature per parameter that the residual adds
  double biased_sum = 0;
  double debiased_sum = 0;
};

// Numbers for people. All curvatures are means over examples.
struct CurvatureReport {
  at::Tensor eigenvalues;        // [K] fp64, along each direction, as the posterior uses them
  at::Tensor standard_errors;    // [K] fp64
  at::Tensor biased;             // [K] fp64, on the examples that chose the directions
  at::Tensor lanczos_residuals;  // [K] fp64
  double trace = 0;
  double trace_standard_error = 0;
  double residual = 0;        // mean curvature per dimension that the residual stands for
  double residual_share = 0;  // of the trace, not along the directions
  int64_t count = 0;          // examples that measured it
  int64_t clipped = 0;        // directions with negative curvature
  std::vector<BlockReport> blocks;
};

class FittedCurvature {
 public:
  virtual ~FittedCurvature() = default;

  // `prior_scale`: K of structure.h, one number for each parameter tensor.
  virtual std::shared_ptr<const Structure> MakeStructure(
      const std::vector<double>& prior_scale) const = 0;

  virtual CurvatureReport Report() const = 0;

  // FAILED_PRECONDITION if nothing was measured apart from the directions.
  virtual absl::Status CanTakeData() const = 0;

  // With all examples of risk.data measured too. Error: as CanTakeData.
  virtual absl::StatusOr<std::shared_ptr<const FittedCurvature>> WithData(
      const EmpiricalRisk& risk, const CapturePlan& plan, const CurvatureSpec& curvature,
      const ProgressFn& progress) const = 0;

  // Every curvature times `factor`: what another sigma_noise makes of it.
  virtual std::shared_ptr<const FittedCurvature> ScaledBy(double factor) const = 0;

  // All tensors, from which the class's FromTensors makes an equal value.
  virtual TensorMap ToTensors() const = 0;
};

}  // namespace laplaced
