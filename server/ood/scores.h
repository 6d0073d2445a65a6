// Out-of-distribution scores. One convention: higher always means more out-of-distribution.
//
// Categorical likelihood, p = softmax(f), C classes, V = functional covariance at the posterior's
// ood_prior_precision:
//   msp                1 - max_c p_c                              logits  Hendrycks & Gimpel 2017
//   max_logit          -max_c f_c                                 logits  Hendrycks et al. 2022
//   energy             -logsumexp(f)                              logits  Liu et al. 2020
//   entropy            H[p], nats                                 logits
//   variance           tr V                                       posterior
//   laplace_entropy    H of the probit predictive, nats           posterior
//   laplace_msp        1 - max of the probit predictive           posterior
//   moderated_energy   -logsumexp(f / sqrt(1 + pi/8 diag V))      posterior
//   mutual_information H[E p] - E H[p] over f ~ N(f, V), nats     posterior
//   local_ensemble     ||J||^2 - ||J U||^2 (free of the prior)    posterior  Madras et al. 2020
// Gaussian likelihood: variance, local_ensemble, and
//   information_gain   1/2 log det(I + V / sigma^2), nats         posterior
// "logits" scores need one forward pass; "posterior" scores need T = J U and G = J J'. Thread-safe
// (pure functions).
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/laplace/posterior.h"
#include "server/model/likelihood.h"

namespace laplaced {

// Names in the order of the table.
std::vector<std::string> OodScoreNames(Likelihood::Kind kind);

// The score that answers when a request names none: laplace_entropy (categorical), variance
// (Gaussian).
std::string DefaultOodScore(Likelihood::Kind kind);

// INVALID_ARGUMENT naming `field` and the known names.
absl::Status CheckOodScores(const std::string& field, const std::vector<std::string>& names,
                            Likelihood::Kind kind);

// True if some of the names need T and G.
bool NeedsPosterior(const std::vector<std::string>& names);

struct OodInputs {
  at::Tensor f;  // [B, C] fp64
  // For posterior scores only; undefined otherwise. `t` [B, C, K], `g` [B, C, C], fp64.
  at::Tensor t;
  at::Tensor g;
};

// One [B] fp64 tensor per name. `posterior` (at its ood_prior_precision) may be null if no name
// needs it. REQUIRES: CheckOodScores is OK.
std::vector<at::Tensor> ComputeOodScores(const std::vector<std::string>& names,
                                         const OodInputs& inputs, const Likelihood& likelihood,
                                         const LowRankPosterior* posterior);

}  // namespace laplaced
