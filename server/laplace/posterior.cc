#include "server/laplace/posterior.h"

#include <cmath>

namespace laplaced {

double LogMarginalLikelihood(const Posterior& posterior, double sum_loss, const PriorTerms& prior) {
  const double delta = posterior.prior_precision;
  const double log_det_prior =
      static_cast<double>(posterior.n_parameters()) * std::log(delta) + prior.log_scale_sum;
  return -sum_loss / posterior.temperature - 0.5 * delta * prior.weighted_norm_squared +
         0.5 * log_det_prior - 0.5 * posterior.LogDetPrecision();
}

}  // namespace laplaced
