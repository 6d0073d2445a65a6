// The Laplace posterior N(theta_map, Sigma) as an immutable value: a structure that approximates
// the mean curvature, the number of examples, and the prior.
//
//   Sigma^-1 = N / temperature * H + delta * K
//
// theta_map and P are the uncertain parameters'. H is a mean over examples; N enters here and only
// here. Changing delta or the temperature copies a few numbers: With... members return new values.
// Thread-safe.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>

#include "server/laplace/structure.h"

namespace laplaced {

struct Posterior {
  std::shared_ptr<const Structure> structure;
  int64_t n_data = 0;          // N
  double prior_precision = 1;  // delta > 0
  double temperature = 1;      // > 0; below 1 the likelihood counts more

  int64_t n_parameters() const { return structure->n_parameters(); }
  Precisions precisions() const {
    return {static_cast<double>(n_data) / temperature, prior_precision};
  }

  Posterior WithPriorPrecision(double delta) const {
    Posterior copy = *this;
    copy.prior_precision = delta;
    return copy;
  }

  Posterior WithTemperature(double value) const {
    Posterior copy = *this;
    copy.temperature = value;
    return copy;
  }

  double LogDetPrecision() const { return structure->LogDetPrecision(precisions()); }

  // gamma = tr(I - delta K Sigma), between 0 and P.
  double EffectiveParameters() const { return structure->EffectiveParameters(precisions()); }

  // theta - theta_map for standard normal noise [P, S].
  at::Tensor Deviations(const at::Tensor& noise) const {
    return structure->Deviations(precisions(), noise);
  }
};

// Of the prior N(0, (delta K)^-1) over the uncertain parameters.
struct PriorTerms {
  double weighted_norm_squared = 0;  // theta' K theta at the mode
  double log_scale_sum = 0;          // log det K
};

// log p(D) = -sum_loss / temperature - delta/2 theta'K theta + 1/2 log det(delta K) - 1/2 log det
// Sigma^-1, in nats. `sum_loss` is over N examples and includes all constants of the likelihood
// (likelihood.h).
double LogMarginalLikelihood(const Posterior& posterior, double sum_loss, const PriorTerms& prior);

}  // namespace laplaced
