// From the Gaussian over a block's outputs to the arrays of an answer: means by the link that was
// asked for, parts of the uncertainty, variances.
//
// Free functions that append to values; they throw LibTorch exceptions. Thread-safe.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "server/laplace/draw_moments.h"
#include "server/laplace/structure.h"
#include "server/model/likelihood.h"
#include "server/serving/engine_types.h"

namespace laplaced {

// What is known of b examples' outputs, fp64. R is m where some outputs are left out, C otherwise.
struct OutputGaussian {
  at::Tensor f;           // [b, C]
  at::Tensor variance;    // [b, R]
  at::Tensor covariance;  // [b, R, R]; may be undefined if `row_sums` or draws do in its place
  at::Tensor row_sums;    // [b, C], sums of the covariance's rows; undefined: take the covariance
  at::Tensor outputs;     // [b, m] int64, which outputs the variances belong to; undefined: all
  // Averages over functions drawn from the posterior, if that is where the variances come from.
  absl::optional<SampledPredictive> drawn;           // categorical
  absl::optional<BernoulliPredictive> drawn_labels;  // Bernoulli
};

OutputGaussian FromLinearized(const Linearized& block, const at::Tensor& outputs);
OutputGaussian FromDraws(const at::Tensor& f, const DrawMoments& moments, int64_t draws,
                         Likelihood::Kind kind, bool covariance);

// Appends everything that follows from the Gaussian; scores are apart.
void AppendPrediction(const OutputGaussian& block, const Likelihood& likelihood,
                      const PredictOptions& options, Prediction& out);

void Append(std::vector<float>& out, const at::Tensor& t);
void AppendScores(std::vector<ScoreValues>& out, const std::vector<at::Tensor>& scores);

}  // namespace laplaced
