// Curvature along given directions, with its uncertainty: the debiasing step. And the traces, from
// the same pass.
//
// For each direction u_i the estimate is the mean over examples of q_ni = u_i' H_n u_i, where H_n
// is the curvature of one example's loss (output_factor.h); likewise the trace, in all and by
// parameter tensor, and the diagonal. All are unbiased for directions that were chosen without
// looking at these examples (Tatzel et al., ICLR 2025), whatever the directions are.
//
// GGN and Fisher kinds are exact per example, through L_n' J_n. The Hessian is measured by products
// over small chunks: along a direction exactly, traces and diagonal by Hutchinson's estimator with
// one random sign vector per chunk (Hutchinson 1990); standard errors, from the spread of the
// chunks, include that noise, and several ranks draw other vectors than one.
#pragma once

#include <ATen/ATen.h>

#include "absl/status/statusor.h"
#include "server/curvature/empirical_risk.h"
#include "server/curvature/jacobian_products.h"
#include "server/curvature/output_factor.h"
#include "server/curvature/running_moments.h"

namespace laplaced {

struct CurvatureStatistics {
  RunningMoments along;   // [K], of q_n
  RunningMoments total;   // [1], of the trace over all P dimensions
  RunningMoments blocks;  // of the trace over each parameter tensor, in the network's order
  at::Tensor diagonal;    // [P] fp64, mean; undefined if it was not asked for

  int64_t count() const { return along.count; }
  // As if the other's examples had been measured too.
  void Merge(const CurvatureStatistics& other);
  // Of all ranks' examples along K directions, for L parameter tensors, with a diagonal of
  // n_diagonal elements if that is not 0; this rank may have no examples.
  absl::StatusOr<CurvatureStatistics> OverRanks(const Ranks& ranks, int64_t n_directions,
                                                int64_t n_blocks, int64_t n_diagonal) const;
};

struct MeasureOptions {
  CurvatureSpec curvature;
  bool diagonal = false;
  // Stop once the standard error is below this share of the mean along every direction, looked at
  // from 200 examples on; 0: never. Rows must then come in random order.
  double target_relative_standard_error = 0;
};

// Over the examples `rows` [n] of the risk's data, in this order; `directions` [P, K] in the
// network's precision.
absl::StatusOr<CurvatureStatistics> MeasureCurvature(const EmpiricalRisk& risk,
                                                     const CapturePlan& plan,
                                                     const at::Tensor& rows,
                                                     const at::Tensor& directions,
                                                     const MeasureOptions& options = {},
                                                     const ProgressFn& progress = nullptr);

// Options that make ForEachJacobian hand over L_n' J_n for the examples `rows` [B] of those here.
JacobianOptions CurvatureFactorOptions(const EmpiricalRisk& risk, const CurvatureSpec& curvature,
                                       const at::Tensor& rows);

}  // namespace laplaced
