// Out-of-distribution scores. One convention: higher always means more out-of-distribution.
//
// Categorical likelihood, p = softmax(f), C classes, V = functional covariance at the posterior's
// ood_prior_precision:
//   msp                1 - max_c p_c                              logits  Hendrycks & Gimpel 2017
//   max_logit          -max_c f_c                                 logits  Hendrycks et al. 2022
//   energy             -logsumexp(f)                              logits  Liu et al. 2020
//   entropy            H[p], nats                                 logits
//   gen                sum over the 100 largest p_c of            logits  Liu, Lochman, Zach 2023
//                      p_c^.1 (1 - p_c)^.1
//   kl_matching        min_c KL(p || template of class c), nats   logits  Hendrycks et al. 2022
//   mahalanobis, relative_mahalanobis, knn, vim, react            features: feature_scores.h
//   variance           tr V                                       posterior
//   laplace_entropy    H of the probit predictive, nats           posterior
//   laplace_msp        1 - max of the probit predictive           posterior
//   moderated_energy   -logsumexp(f / sqrt(1 + pi/8 diag V))      posterior
//   mutual_information H[E p] - E H[p] over f ~ N(f, V), nats     posterior
//   local_ensemble     ||J||^2 - ||J U||^2 (free of the prior)    posterior  Madras et al. 2020
//   combined           1/2 log sum exp(2 z), z = (s - median) /   both      ours
//                      (95 % quantile - median) of s = knn, react
//                      and moderated_energy on in-distribution
//                      data: the largest of three views - features,
//                      logits, posterior - on one scale, softly
// Bernoulli likelihood, one logit per label, p = sigmoid(f): max_logit, mahalanobis (with one
// mean), knn, variance, local_ensemble, and
//   energy             -sum_c softplus(f_c)                       logits  Wang et al. 2021
//   entropy            sum_c H_b[p_c], nats                       logits
//   laplace_entropy    the same of the probit predictive          posterior
//   mutual_information sum_c H_b[E p_c] - E H_b[p_c], nats        posterior
// Gaussian likelihood: mahalanobis (with one mean), knn, variance, local_ensemble, and
//   information_gain   1/2 log det(I + V / sigma^2), nats         posterior
// "logits" and "features" scores need one forward pass; "posterior" scores need the Gaussian over
// the outputs under the posterior; local_ensemble needs one with directions (not KFAC), kl_matching
// templates and combined quantiles from validation data. Thread-safe (pure functions).
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/laplace/structure.h"
#include "server/laplace/variance_mode.h"
#include "server/model/likelihood.h"
#include "server/ood/class_templates.h"
#include "server/ood/feature_scores.h"

namespace laplaced {

// Where a score lies on in-distribution data, and how far it spreads upwards there.
struct ScoreScale {
  std::string score;
  double median = 0;
  double spread = 0;  // 95 % quantile - median; a score that does not spread does not count
};

// What a posterior has to make scores of.
struct OodKnowledge {
  Likelihood::Kind kind = Likelihood::Kind::kCategorical;
  bool has_directions = true;
  std::shared_ptr<const FeatureScores> features;    // null: no feature scores
  std::shared_ptr<const ClassTemplates> templates;  // null: no kl_matching
  std::vector<ScoreScale> combined;                 // empty: no combined score
};

// The scores that there are, in the order of the table.
std::vector<std::string> OodScoreNames(const OodKnowledge& knowledge);

// The score that answers when a request names none: combined where there is one, else
// moderated_energy (categorical), laplace_entropy (Bernoulli), variance (Gaussian).
std::string DefaultOodScore(const OodKnowledge& knowledge);

// The scores that combined is made of, and combined from their values [B] fp64.
std::vector<std::string> CombinedParts();
at::Tensor Combine(const std::vector<ScoreScale>& scales,
                   const std::function<at::Tensor(const std::string& score)>& values);

// INVALID_ARGUMENT naming `field` and the names that there are.
absl::Status CheckOodScores(const std::string& field, const std::vector<std::string>& names,
                            const OodKnowledge& knowledge);

// INVALID_ARGUMENT naming `field`, the mode and why, if one of these names (which CheckOodScores
// knows) cannot be had in `mode`: TOP_CLASSES knows the variances of some outputs only, so it has
// scores from logits and features; SAMPLED has neither local_ensemble, which is about directions,
// nor information_gain, because the log determinant of a sampled covariance is biased.
absl::Status CheckOodScoresIn(VarianceMode mode, const std::string& field,
                              const std::vector<std::string>& names);

// True if some of the names need more than f and features.
bool NeedsPosterior(const std::vector<std::string>& names);
// True if some of the names need features.
bool NeedsFeatures(const std::vector<std::string>& names);

// What has to be asked of the posterior for these names: one covariance, or one variance where that
// is enough, at `precisions`; nothing if no name needs any.
LinearizeRequest NeededFor(const std::vector<std::string>& names, const Precisions& precisions);

struct OodInputs {
  at::Tensor f;  // [B, C] fp64
  // What the names need of these, fp64; undefined otherwise. Scores that need only the variance
  // take it from the covariance if that is there.
  at::Tensor variance;    // [B, C]
  at::Tensor covariance;  // [B, C, C]
  at::Tensor outside;     // [B]
  // [B], categorical and Bernoulli: mutual_information where it is known already, from functions
  // drawn from the posterior.
  at::Tensor mutual_information{};
  at::Tensor features{};  // phi, [B, D]
};

// From an answer to NeededFor (or to a request for one covariance).
OodInputs ToOodInputs(const Linearized& linearized);

// One [B] fp64 tensor per name. REQUIRES: CheckOodScores is OK.
std::vector<at::Tensor> ComputeOodScores(const std::vector<std::string>& names,
                                         const OodInputs& inputs, const Likelihood& likelihood,
                                         const OodKnowledge& knowledge);

}  // namespace laplaced
