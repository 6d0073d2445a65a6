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
// eigenvalues from rounding count as zero). With `outputs` [B, R], the covariance [B, R, R] is
// theirs alone, and the logits of the others count as known.
SampledPredictive SamplePredictive(const at::Tensor& m, const at::Tensor& covariance,
                                   const at::Tensor& outputs = {});

// Mean of the Dirichlet that the Laplace bridge makes of N(m, V) (Hobbhahn, Kristiadi, Hennig
// 2022):
//   alpha_k = 1 / V_kk (1 - 2 / C + exp(m_k) / C^2 sum_l exp(-m_l)),   mean = alpha / sum alpha
// after conditioning the Gaussian on 1'f = 0, which the bridge assumes:
//   m - r 1'm / 1'r,   V_kk - r_k^2 / 1'r,   r = V 1
// (where 1'f has no variance, m - mean(m)). [B, C] each; `row_sums` is r. Two properties to know:
// for C = 2 the mean does not depend on the variance, and for C > 2 it does not become the softmax
// when the variance vanishes. The paper's correction of the variance (m and V divided by a multiple
// of the mean variance, `bridge_norm` in laplace-torch) is not applied: it turns small variances
// into certainty.
at::Tensor LaplaceBridgeProbabilities(const at::Tensor& m, const at::Tensor& variance,
                                      const at::Tensor& row_sums);

// The second-order mean-field approximation (mf2; Lu, Ie, Sha 2020), made to sum to 1: [B, C],
//   p_k ~ 1 / sum_i exp((m_i - m_k) / sqrt(1 + pi/8 (V_kk + V_ii - 2 V_ki)))
// For C = 2 the probit of the difference of the logits. Depends on differences of logits only, so
// that a shift of all of them, known or random, changes nothing. covariance [B, C, C].
at::Tensor MeanFieldProbabilities(const at::Tensor& m, const at::Tensor& covariance);

// The probit predictive where only R outputs of each example have a variance: that of the others,
// which are left out, counts as 0.
struct TopClassPredictive {
  at::Tensor mean;                  // [B, C]
  at::Tensor left_out_probability;  // [B], sum of mean over the outputs left out
  // [B]: no matter what variances the outputs left out have, their probabilities together are at
  // most this, and so is the error of every entry of `mean`. The moderated logit of an output lies
  // between 0 and f whatever its variance, so the bound is S / (T + S) with S the sum of exp(max(f,
  // 0)) over the outputs left out, T that of exp(moderated logit) over the others.
  at::Tensor left_out_bound;
};

// m [B, C]; `outputs` [B, R] int64, variance [B, R] theirs.
TopClassPredictive ProbitTopClasses(const at::Tensor& m, const at::Tensor& outputs,
                                    const at::Tensor& variance);

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
