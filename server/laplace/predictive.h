// From the Gaussian over outputs, f ~ N(m, V), to what a user acts on: probabilities and their
// epistemic and aleatoric parts.
//
// All tensors are fp64. Categorical: one distribution per example. The Monte Carlo parts use a
// fixed set of standard normal samples, the same for every example and in antithetic pairs (z, -z).
// Bernoulli: every label is a distribution of its own and needs only its own m and variance; the
// integrals are computed by quadrature. Either way answers are reproducible and do not depend on
// the rest of the batch. Thread-safe.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

namespace laplaced {

inline constexpr int64_t kMcSamples = 256;

// softmax(m / sqrt(1 + pi/8 diag V)): the multi-class probit approximation (MacKay 1992; Gibbs
// 1998). m, variance [B, C].
at::Tensor ProbitProbabilities(const at::Tensor& m, const at::Tensor& variance);

// Logits that ProbitProbabilities takes the softmax of.
at::Tensor ModeratedLogits(const at::Tensor& m, const at::Tensor& variance);

struct SampledPredictive {
  at::Tensor mean;       // [B, C], average of softmax(f)
  at::Tensor aleatoric;  // [B], average entropy of softmax(f), nats
  at::Tensor epistemic;  // [B], entropy of the average minus the average entropy: mutual
                         // information, nats, >= 0
};

// Over kMcSamples samples of N(m, V); m [B, C], covariance [B, C, C] (symmetric; negative
// eigenvalues from rounding count as zero).
SampledPredictive SamplePredictive(const at::Tensor& m, const at::Tensor& covariance);

// sigmoid(m / sqrt(1 + pi/8 variance)) for every label: what ProbitProbabilities says of the logits
// (0, f) (MacKay 1992). m, variance [B, C].
at::Tensor BernoulliProbit(const at::Tensor& m, const at::Tensor& variance);

// H_b[p] = -p log p - (1 - p) log(1 - p) is the entropy of one label, nats.
struct BernoulliPredictive {
  at::Tensor mean;       // [B, C], E sigmoid(f)
  at::Tensor aleatoric;  // [B, C], E H_b[sigmoid(f)], nats
  at::Tensor epistemic;  // [B, C], H_b[mean] - aleatoric: mutual information, nats, >= 0
};

// Over f_c ~ N(m_c, variance_c), to 1e-10 whatever they are; m, variance [B, C].
BernoulliPredictive IntegrateBernoulli(const at::Tensor& m, const at::Tensor& variance);

// H_b of every element.
at::Tensor BinaryEntropy(const at::Tensor& probabilities);

// -sum p log p over the last dimension, nats, with 0 log 0 = 0.
at::Tensor Entropy(const at::Tensor& probabilities);

}  // namespace laplaced
