// What functions drawn from the posterior (function_sampler.h) say about a batch, gathered draw by
// draw: nothing grows with the number of draws.
//
// Variances are averages over draws of the squared deviation from f, whose mean is known to be 0:
// unbiased, with relative standard error sqrt(2 / draws). A value that one thread fills.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

#include "server/laplace/predictive.h"
#include "server/model/likelihood.h"

namespace laplaced {

class DrawMoments {
 public:
  // f [B, C] fp64. `covariance`: keep all of V, [B, C, C].
  DrawMoments(at::Tensor f, Likelihood::Kind kind, bool covariance);

  // A draw's J (theta - theta_map) [b, C] at examples [begin, begin + b).
  void Add(int64_t begin, const at::Tensor& deviation);

  // After `draws` draws at every example; fp64.
  at::Tensor Variance(int64_t draws) const { return variance_ / draws; }      // diag V, [B, C]
  at::Tensor RowSums(int64_t draws) const { return row_sums_ / draws; }       // V 1, [B, C]
  at::Tensor Covariance(int64_t draws) const { return covariance_ / draws; }  // V, if kept

  // Categorical: averages over the draws of softmax(f) and of its entropy.
  SampledPredictive Categorical(int64_t draws) const;
  // Bernoulli: the same of every label.
  BernoulliPredictive Bernoulli(int64_t draws) const;

 private:
  at::Tensor f_;
  Likelihood::Kind kind_;
  // Sums over draws.
  at::Tensor variance_, row_sums_, covariance_;
  at::Tensor mean_;     // [B, C], probabilities
  at::Tensor entropy_;  // [B] categorical, [B, C] Bernoulli
};

}  // namespace laplaced
