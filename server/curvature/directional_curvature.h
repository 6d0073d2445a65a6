// Curvature along given directions, with its uncertainty: the debiasing step.
//
// For each direction u_i the estimate is the mean over examples of q_ni = (J_n u_i)' Lambda_n (J_n
// u_i); likewise the trace, the mean of tr(J_n' Lambda_n J_n). Both are unbiased for directions
// that were chosen without looking at these examples (Tatzel et al., ICLR 2025), whatever the
// directions are. Means and variances are accumulated with Chan's parallel form of Welford's
// algorithm in fp64, so that splitting or reordering the data changes nothing but rounding.
#pragma once

#include <ATen/ATen.h>

#include "absl/status/statusor.h"
#include "server/curvature/empirical_risk.h"
#include "server/curvature/jacobian_products.h"

namespace laplaced {

// Streaming mean and variance of vectors of one length. A value; not synchronised.
struct RunningMoments {
  int64_t count = 0;
  at::Tensor mean;  // [m] fp64
  at::Tensor m2;    // [m] fp64, sum of squared deviations

  // Adds the rows of `samples` [n, m].
  void Add(const at::Tensor& samples);
  // sqrt(m2 / (count - 1) / count), [m]; infinite for fewer than two samples.
  at::Tensor StandardError() const;
};

struct DirectionalCurvature {
  at::Tensor values;           // [K] fp64, mean of q_n
  at::Tensor standard_errors;  // [K] fp64
  double trace = 0;            // of the mean curvature, over all P dimensions
  double trace_standard_error = 0;
  int64_t count = 0;
};

// Per-example curvature along the directions of `products`: q [B, K], and trace [B].
struct ExampleCurvature {
  at::Tensor along;  // [B, K] fp64
  at::Tensor trace;  // [B] fp64
};
ExampleCurvature CurvaturePerExample(const JacobianProducts& products,
                                     const Likelihood& likelihood);

// Over the examples `rows` [n] of the risk's data; `directions` [P, K] in the network's precision.
absl::StatusOr<DirectionalCurvature> MeasureCurvature(const EmpiricalRisk& risk,
                                                      const CapturePlan& plan,
                                                      const at::Tensor& rows,
                                                      const at::Tensor& directions,
                                                      const ProgressFn& progress = nullptr);

}  // namespace laplaced
