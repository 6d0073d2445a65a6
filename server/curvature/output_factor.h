// Which curvature of the loss is meant, as a factor of its Hessian in the outputs.
//
// Every positive semi-definite curvature here has the form mean over n of J_n' L_n L_n' J_n with a
// factor L_n [C, R] per example:
//   GGN               R = C: L L' = Lambda, the likelihood's Hessian in the outputs, exactly
//   MC_FISHER         R = S: columns d loss(f, y_s) / d f / sqrt(S) for targets y_s drawn from the
//                     model's own predictive distribution; E[L L'] = Lambda
//   EMPIRICAL_FISHER  R = 1: d loss(f, y) / d f at the data's own target
// So one reverse pass per column, seeded with it, gives everything that is asked of the curvature:
// L'J. Draws depend on the seed and on the example's row number alone, not on the batch it comes
// in: the same curvature whatever the batches. HESSIAN has no such factor (hessian_operator.h).
// Pure functions; thread-safe.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

#include "server/model/likelihood.h"

namespace laplaced {

enum class CurvatureKind { kGgn, kMcFisher, kEmpiricalFisher, kHessian };

struct CurvatureSpec {
  CurvatureKind kind = CurvatureKind::kGgn;
  int64_t fisher_samples = 1;  // S, MC_FISHER only
  uint64_t seed = 0;           // MC_FISHER only

  // R for a network with C outputs. REQUIRES: not HESSIAN.
  int64_t Columns(int64_t n_outputs) const;
};

// L [B, C, R], in the precision of f. f [B, C]; targets [B] or [B, C] as in the data set (looked at
// by EMPIRICAL_FISHER only); rows [B] int64, the examples' numbers in the data set (MC_FISHER
// only). REQUIRES: not HESSIAN.
at::Tensor OutputFactor(const CurvatureSpec& spec, const Likelihood& likelihood,
                        const at::Tensor& f, const at::Tensor& targets, const at::Tensor& rows);

}  // namespace laplaced
