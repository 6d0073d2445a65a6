// What the network's outputs mean: loss and its curvature in the outputs.
//
// f is [B, C]. Losses are per example, in nats, including all constants, so that sums of them are
// log likelihoods.
//   categorical: y [B] int64, the class;             loss = logsumexp(f) - f_y;
//                Lambda = diag(p) - p p', p = softmax(f)
//   Gaussian:    y [B, C];                           loss = ||f - y||^2 / (2 sigma^2)
//                + C/2 log(2 pi sigma^2);            Lambda = I / sigma^2
//   Bernoulli:   y [B, C] in [0, 1], any number of   loss = sum over c of softplus(f_c) - y_c f_c;
//                labels at once, soft ones too;      Lambda = diag(p (1 - p)), p = sigmoid(f)
// In all three Lambda does not depend on y. An immutable value; thread-safe. Functions may throw
// LibTorch exceptions on shapes that were not checked before.
#pragma once

#include <ATen/ATen.h>

#include <string>

#include "absl/status/status.h"

namespace laplaced {

struct Likelihood {
  enum class Kind { kCategorical, kGaussian, kBernoulli };

  Kind kind = Kind::kCategorical;
  double sigma_noise = 1;  // Gaussian only

  // [B], fp64. Twice differentiable in f everywhere, by autograd too.
  at::Tensor Loss(const at::Tensor& f, const at::Tensor& y) const;

  // d loss / d f, [B, C] in the precision of f.
  at::Tensor LossGradient(const at::Tensor& f, const at::Tensor& y) const;

  // Lambda_n v_n for every example: f, v [B, C] -> [B, C].
  at::Tensor ApplyHessian(const at::Tensor& f, const at::Tensor& v) const;

  // Lambda_n V_n: f [B, C], v [B, C, K] -> [B, C, K].
  at::Tensor ApplyHessianBlock(const at::Tensor& f, const at::Tensor& v) const;

  // Lambda, dense: f [B, C] -> [B, C, C].
  at::Tensor Hessian(const at::Tensor& f) const;

  // INVALID_ARGUMENT unless `targets` [N...] fit C outputs: right type and shape, classes in [0,
  // C), finite values, labels in [0, 1]. The message names `field` and the first offending row (and
  // column), counted from `first_row`.
  absl::Status CheckTargets(const std::string& field, const at::Tensor& targets, int64_t n_outputs,
                            int64_t first_row = 0) const;
};

}  // namespace laplaced
