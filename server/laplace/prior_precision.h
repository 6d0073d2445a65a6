// Choosing the prior precision: on held-out data, or by the evidence.
//
// The validation NLL of every candidate is gathered in one pass over the data: predictive variances
// at all candidates come from the same Jacobians. The evidence needs no pass at all. Functions on
// values; thread-safe.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <vector>

#include "server/laplace/posterior.h"
#include "server/model/likelihood.h"

namespace laplaced {

struct PriorCandidate {
  double prior_precision = 0;
  double validation_nll = 0;           // mean, nats; 0 without validation data
  double log_marginal_likelihood = 0;  // nats
};

// Seven candidates per decade from `center` * 1e-3 to `center` * 1e5, increasing.
std::vector<double> PriorGrid(double center);

// Negative log likelihood of the predictive at the targets, [B], nats; f and variance [B, C] fp64.
// Categorical: probit. Bernoulli: probit per label, summed. Gaussian: N(f, diag V + sigma^2) per
// output, summed.
at::Tensor PredictiveLoss(const Likelihood& likelihood, const at::Tensor& f,
                          const at::Tensor& variance, const at::Tensor& targets);

// Index of the candidate with the least validation NLL. `warning` says so if it is at an edge.
size_t BestByValidation(const std::vector<PriorCandidate>& candidates, std::string* warning);

// What the evidence is made of, besides the posterior.
struct EvidenceTerms {
  double mean_loss = 0;  // of the training data, nats
  PriorTerms prior;
  // Gaussian likelihood only: outputs per example, and the noise that the curvature was measured
  // with.
  int64_t n_outputs = 0;
  double sigma_noise = 0;
};

// log p(D) of `posterior`, whose curvature was measured at terms.sigma_noise.
double Evidence(const Posterior& posterior, const EvidenceTerms& terms);

struct EvidenceSearch {
  double prior_precision = 0;
  double sigma_noise = 0;             // terms.sigma_noise unless it was searched for
  std::vector<PriorCandidate> steps;  // of the fixed point, the last one is the answer
  std::string warning;                // says so if it did not converge
};

// MacKay's fixed point (1992): delta = gamma / theta'K theta; with `noise`, sigma^2 = sum of
// squares / (N C - gamma) in turn with it. Starts at the posterior's precision. Without `prior`,
// delta stays.
EvidenceSearch MaximiseEvidence(const Posterior& posterior, const EvidenceTerms& terms, bool prior,
                                bool noise);

}  // namespace laplaced
