// Choosing the prior precision on held-out data: mean negative log likelihood over a log grid, from
// cached T and G.
//
// Because f, T = J U and G = J J' do not depend on the precision, the whole grid costs arithmetic
// of size B C^2 per candidate and no pass through the network. Thread-safe (functions on values).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/curvature/directional_curvature.h"
#include "server/laplace/posterior.h"
#include "server/model/likelihood.h"

namespace laplaced {

// Linearised predictions for a whole data set.
struct LinearizedData {
  at::Tensor f;        // [V, C] fp64
  at::Tensor t;        // [V, C, K] fp32
  at::Tensor g;        // [V, C, C] fp64
  at::Tensor targets;  // [V] or [V, C]

  int64_t size() const { return f.defined() ? f.size(0) : 0; }
};

// One pass over `data`.
absl::StatusOr<LinearizedData> Linearize(const EmpiricalRisk& risk, const CapturePlan& plan,
                                         const Dataset& data, const at::Tensor& directions,
                                         const ProgressFn& progress = nullptr);

// Mean NLL of the predictive in nats. Categorical: probit. Gaussian: N(f, diag V + sigma^2), per
// output.
double PredictiveNll(const LowRankPosterior& posterior, const Likelihood& likelihood,
                     const LinearizedData& data);

struct PriorCandidate {
  double prior_precision = 0;
  double validation_nll = 0;
};

struct PriorSearch {
  double prior_precision = 0;              // of the best candidate
  std::vector<PriorCandidate> candidates;  // by increasing precision
  std::string warning;  // says so if the best candidate is at an edge of the grid
};

// Seven candidates per decade from `center` * 1e-3 to `center` * 1e5.
PriorSearch TunePriorPrecision(const LowRankPosterior& posterior, const Likelihood& likelihood,
                               const LinearizedData& data, double center);

}  // namespace laplaced
