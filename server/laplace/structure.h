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
#include "server/curvature/jacobian_products.h"
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
  // Which m outputs of each example variances and covariances are about, [B, m] int64 in [0, C);
  // undefined: all C. Costs m reverse passes in place of C.
  at::Tensor outputs;
  // Which parameter tensors the outputs depend on, one flag for each: the others are held at the
  // mode, and what is left is J_S Sigma_SS J_S' with the block of this posterior's Sigma. Empty:
  // all.
  std::vector<bool> parameters;
};

// The Gaussian over a batch's outputs under the posterior, f ~ N(f(x), V), V_n = J_n Sigma J_n'.
// fp64. R is m where the request names outputs, and C otherwise; rows are in its order.
struct Linearized {
  at::Tensor f;                        // [B, C], whatever outputs are asked for
  std::vector<at::Tensor> variance;    // diag V, [B, R], one for each of variance_at
  std::vector<at::Tensor> covariance;  // V, [B, R, R], symmetric, one for each of covariance_at
  // [B], squared norm of the R rows of J_n outside the directions; undefined without directions.
  at::Tensor outside;
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

  // J Sigma J' between all rows of a Jacobian [n, P] in the network's precision: [n, n] fp64,
  // symmetric.
  virtual at::Tensor RowCovariance(const Precisions& at, const at::Tensor& jacobian) const = 0;
  // Multiply-adds that one row of a Jacobian costs on its way into V, for estimates of cost.
  virtual double RowMacs() const = 0;

  // `network` and `plan` are those of the uncertain parameters; x [B, input_shape...] in the
  // network's precision.
  virtual absl::StatusOr<Linearized> Linearize(const Network& network, const CapturePlan& plan,
                                               const at::Tensor& x,
                                               const LinearizeRequest& request) const = 0;
};

// The Jacobians that `request` is about, and R, the rows that each has.
JacobianOptions JacobiansFor(const LinearizeRequest& request, const Network& network);
int64_t RowsOf(const LinearizeRequest& request, const Network& network);

}  // namespace laplaced
