// The form of a posterior: an approximation H of the mean curvature over examples, from which
// follow, for any number of examples and any prior,
//
//   Sigma^-1 = likelihood * H + prior * K
//
// likelihood = N / temperature; K is diagonal and positive, 1 for ordinary parameters (prior_scale
// below): biases may have a prior of their own. H knows neither N nor the prior: changing them
// never needs a new fit. Implementations: low_rank_structure.h, kronecker_structure.h. Immutable;
// thread-safe.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "absl/status/statusor.h"
#include "server/model/layer_capture.h"
#include "server/model/network.h"

namespace laplaced {

struct Precisions {
  double likelihood = 1;  // N / temperature, > 0
  double prior = 1;       // delta, > 0
};

// What a batch should be asked for.
struct LinearizeRequest {
  std::vector<Precisions> variance_at;
  std::vector<Precisions> covariance_at;
  bool outside = false;  // ignored by structures without directions
};

// The Gaussian over a batch's outputs under the posterior, f ~ N(f(x), V), V_n = J_n Sigma J_n'.
// fp64.
struct Linearized {
  at::Tensor f;                        // [B, C]
  std::vector<at::Tensor> variance;    // diag V, [B, C], one for each of variance_at
  std::vector<at::Tensor> covariance;  // V, [B, C, C], symmetric, one for each of covariance_at
  at::Tensor outside;  // [B], squared norm of J_n outside the directions; undefined without them
};

class Structure {
 public:
  virtual ~Structure() = default;

  // P, the uncertain parameters.
  virtual int64_t n_parameters() const = 0;
  // Whether Linearize can give `outside`.
  virtual bool has_directions() const = 0;

  // log det Sigma^-1.
  virtual double LogDetPrecision(const Precisions& at) const = 0;
  // tr(likelihood H Sigma), between 0 and P.
  virtual double EffectiveParameters(const Precisions& at) const = 0;
  // B noise with B B' = Sigma, for noise [P, S]: deviations from the mode if it is standard normal.
  virtual at::Tensor Deviations(const Precisions& at, const at::Tensor& noise) const = 0;

  // `network` and `plan` are those of the uncertain parameters; x [B, input_shape...] in the
  // network's precision.
  virtual absl::StatusOr<Linearized> Linearize(const Network& network, const CapturePlan& plan,
                                               const at::Tensor& x,
                                               const LinearizeRequest& request) const = 0;
};

}  // namespace laplaced
