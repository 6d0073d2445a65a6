#include "server/laplace/posterior.h"

#include <algorithm>
#include <cmath>

namespace laplaced {

LowRankPosterior LowRankPosterior::WithPriorPrecision(double delta) const {
  LowRankPosterior copy = *this;
  copy.prior_precision = delta;
  return copy;
}

LowRankPlusScalar LowRankPosterior::Precision() const {
  const double n = static_cast<double>(n_data);
  return {directions, n * (curvature - residual), prior_precision + n * residual};
}

LowRankPlusScalar LowRankPosterior::Covariance() const { return Precision().Inverse(); }

at::Tensor LowRankPosterior::FunctionalCovariance(const at::Tensor& t, const at::Tensor& g) const {
  const double n = static_cast<double>(n_data);
  const at::Tensor along = 1 / (n * curvature + prior_precision);  // [K]
  const double elsewhere = 1 / (prior_precision + n * residual);
  // Both parts are positive semi-definite on their own: no difference of two large numbers beyond G
  // - T T', which is clamped on the diagonal where rounding could take it below zero.
  at::Tensor remaining = g - at::bmm(t, t.transpose(1, 2));
  remaining.diagonal(0, 1, 2).clamp_min_(0);
  at::Tensor v = remaining * elsewhere + at::bmm(t * along, t.transpose(1, 2));
  return (v + v.transpose(1, 2)) / 2;
}

at::Tensor LowRankPosterior::FunctionalVariance(const at::Tensor& t, const at::Tensor& g) const {
  const double n = static_cast<double>(n_data);
  const at::Tensor along = 1 / (n * curvature + prior_precision);
  const double elsewhere = 1 / (prior_precision + n * residual);
  const at::Tensor squared = t.square();
  const at::Tensor remaining = (g.diagonal(0, 1, 2) - squared.sum(2)).clamp_min(0);
  return remaining * elsewhere + at::matmul(squared, along);
}

at::Tensor LowRankPosterior::Deviations(const at::Tensor& noise) const {
  return Covariance().SquareRoot().Apply(noise);
}

double LowRankPosterior::LogDetPrecision() const { return Precision().LogDet(); }

double LowRankPosterior::EffectiveParameters() const {
  const double n = static_cast<double>(n_data);
  const at::Tensor scaled = n * curvature;
  const double rest = n * residual / (n * residual + prior_precision);
  return (scaled / (scaled + prior_precision)).sum().item<double>() +
         static_cast<double>(n_parameters() - rank()) * rest;
}

double LowRankPosterior::LogMarginalLikelihood(double sum_loss,
                                               double parameter_norm_squared) const {
  return -sum_loss - 0.5 * prior_precision * parameter_norm_squared +
         0.5 * static_cast<double>(n_parameters()) * std::log(prior_precision) -
         0.5 * LogDetPrecision();
}

double IsotropicResidual(double trace, const at::Tensor& curvature, int64_t n_parameters) {
  const int64_t remaining = n_parameters - curvature.size(0);
  if (remaining <= 0) return 0;
  return std::max(0.0, trace - curvature.sum().item<double>()) / static_cast<double>(remaining);
}

}  // namespace laplaced
