#include "server/laplace/predictive.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

namespace laplaced {
namespace {

// Blocks of rows whose intermediate tensors hold about this many numbers.
constexpr int64_t kBlockNumel = int64_t{1} << 22;

// E g(z) is about sum_j weights_j g(nodes_j).
struct Quadrature {
  at::Tensor nodes;
  at::Tensor weights;
};

// Gauss-Hermite for z ~ N(0, 1) by Golub and Welsch (1969): nodes are the eigenvalues of the Jacobi
// matrix of the Hermite polynomials (off-diagonal sqrt(k)), weights the squares of the first
// components of its eigenvectors.
const Quadrature& GaussHermite() {
  static const auto* quadrature = [] {
    constexpr int64_t kNodes = 32;
    const at::Tensor off = at::arange(1, kNodes, at::kDouble).sqrt();
    const auto [values, vectors] = at::linalg_eigh(at::diag(off, -1), "L");
    return new Quadrature{values, vectors[0].square()};
  }();
  return *quadrature;
}

// The trapezoidal rule for integrals over the logit t of functions that fall off like exp(-|t|):
// converges geometrically for functions without singularities near the real line.
const Quadrature& LogitGrid() {
  static const auto* quadrature = [] {
    constexpr double kStep = 0.6, kEnd = 30;
    const at::Tensor t = at::arange(-kEnd, kEnd + kStep / 2, kStep, at::kDouble);
    return new Quadrature{t, at::full_like(t, kStep)};
  }();
  return *quadrature;
}

// H_b[sigmoid(f)] without forming 1 - p.
at::Tensor EntropyOfLogits(const at::Tensor& f) {
  const at::Tensor a = f.abs();
  return at::log1p((-a).exp()) + a * at::sigmoid(-a);
}

// E sigmoid(f) and E H_b[sigmoid(f)] for f ~ N(m, deviation^2), vectors. Where f is narrow, both
// are smooth functions of z = (f - m) / deviation: Gauss-Hermite. Where f is wide they are steps
// and spikes in z, which no polynomial rule sees (32 nodes are off by .05 at a deviation of 40);
// there the Gaussian is the smooth factor: by parts, E sigmoid(f) is the integral of sigmoid'(t)
// Phi((m - t) / deviation) over t. At the border, 1, both are right to 1e-12.
std::pair<at::Tensor, at::Tensor> BernoulliMoments(const at::Tensor& m,
                                                   const at::Tensor& deviation) {
  const at::Tensor centre = m.unsqueeze(-1), narrow = deviation.clamp_max(1).unsqueeze(-1),
                   wide = deviation.clamp_min(1).unsqueeze(-1);
  const Quadrature& hermite = GaussHermite();
  const at::Tensor f = centre + narrow * hermite.nodes;
  const at::Tensor mean_narrow = (at::sigmoid(f) * hermite.weights).sum(-1),
                   entropy_narrow = (EntropyOfLogits(f) * hermite.weights).sum(-1);

  const Quadrature& grid = LogitGrid();
  const at::Tensor& t = grid.nodes;
  const at::Tensor z = (t - centre) / wide;
  const at::Tensor slope = at::sigmoid(t) * at::sigmoid(-t);
  const at::Tensor mean_wide =
      (slope * grid.weights * at::special_erfc(z * M_SQRT1_2)).sum(-1) * 0.5;
  const at::Tensor density = (-0.5 * z.square()).exp() / (wide * std::sqrt(2 * M_PI));
  const at::Tensor entropy_wide = (EntropyOfLogits(t) * grid.weights * density).sum(-1);

  const at::Tensor is_narrow = deviation <= 1;
  return {at::where(is_narrow, mean_narrow, mean_wide),
          at::where(is_narrow, entropy_narrow, entropy_wide)};
}

}  // namespace

at::Tensor ModeratedLogits(const at::Tensor& m, const at::Tensor& variance) {
  return m / (1 + M_PI / 8 * variance).sqrt();
}

at::Tensor ProbitProbabilities(const at::Tensor& m, const at::Tensor& variance) {
  return at::softmax(ModeratedLogits(m, variance), -1);
}

SampledPredictive SamplePredictive(const at::Tensor& m, const at::Tensor& covariance,
                                   const at::Tensor& outputs) {
  const int64_t batch = m.size(0), c = m.size(1);
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t{20250424});
  const at::Tensor half = at::randn({kMcSamples / 2, c}, generator, m.options());
  const at::Tensor noise =
      at::cat({half, -half});  // [S, C], the same for an output wherever it stands

  const auto [values, vectors] = at::linalg_eigh(covariance, "L");
  const at::Tensor root =
      at::bmm(vectors * values.clamp_min(0).sqrt().unsqueeze(1), vectors.transpose(1, 2));
  SampledPredictive result;
  std::vector<at::Tensor> means, entropies;
  const int64_t block = std::max<int64_t>(1, kBlockNumel / (kMcSamples * c));
  for (int64_t begin = 0; begin < batch; begin += block) {
    const int64_t count = std::min(block, batch - begin);
    const at::Tensor centre = m.narrow(0, begin, count).unsqueeze(1);
    const at::Tensor roots = root.narrow(0, begin, count);
    at::Tensor f;  // [b, S, C]
    if (outputs.defined()) {
      const at::Tensor mine = outputs.narrow(0, begin, count);  // [b, R]
      const at::Tensor noises =
          noise.t().index_select(0, mine.flatten()).view({count, mine.size(1), kMcSamples});
      const at::Tensor deviations = at::bmm(noises.transpose(1, 2), roots);  // [b, S, R]
      f = centre.repeat({1, kMcSamples, 1});
      f.scatter_add_(2, mine.unsqueeze(1).expand_as(deviations), deviations);
    } else {
      f = centre + at::matmul(noise.unsqueeze(0), roots);
    }
    const at::Tensor log_p = at::log_softmax(f, 2);
    const at::Tensor p = log_p.exp();
    means.push_back(p.mean(1));
    entropies.push_back(-(p * log_p).sum(2).mean(1));
  }
  result.mean = at::cat(means);
  result.aleatoric = at::cat(entropies);
  result.epistemic = (Entropy(result.mean) - result.aleatoric).clamp_min(0);
  return result;
}

at::Tensor LaplaceBridgeProbabilities(const at::Tensor& m, const at::Tensor& variance,
                                      const at::Tensor& row_sums) {
  const auto c = static_cast<double>(m.size(1));
  const at::Tensor total = row_sums.sum(1, true);
  // Below this the variance of the sum is rounding.
  const at::Tensor known = total <= 1e-12 * c * variance.sum(1, true);
  const at::Tensor share = at::where(known, at::full_like(row_sums, 1 / c), row_sums / total);
  const at::Tensor centred = m - share * m.sum(1, true);
  at::Tensor v = variance - at::where(known, at::zeros_like(share), share * row_sums);
  v = at::maximum(v, 1e-12 * variance.amax(1, true)).clamp_min(1e-300);
  // In logarithms, because exp(m) overflows; log 0 = -inf for two classes.
  const at::Tensor constant = at::full_like(v, std::log(1 - 2 / c));
  const at::Tensor spread =
      centred + at::logsumexp(-centred, at::IntArrayRef({1}), true) - 2 * std::log(c);
  return at::softmax(at::logaddexp(constant, spread) - v.log(), 1);
}

at::Tensor MeanFieldProbabilities(const at::Tensor& m, const at::Tensor& covariance) {
  const int64_t batch = m.size(0), c = m.size(1);
  std::vector<at::Tensor> rows;
  const int64_t block = std::max<int64_t>(1, kBlockNumel / (c * c));
  for (int64_t begin = 0; begin < batch; begin += block) {
    const int64_t count = std::min(block, batch - begin);
    const at::Tensor f = m.narrow(0, begin, count), v = covariance.narrow(0, begin, count);
    const at::Tensor variance = v.diagonal(0, 1, 2);
    // Of f_i - f_k at [k, i].
    const at::Tensor spread = (variance.unsqueeze(2) + variance.unsqueeze(1) - 2 * v).clamp_min(0);
    const at::Tensor difference = f.unsqueeze(1) - f.unsqueeze(2);
    rows.push_back(-at::logsumexp(difference / (1 + M_PI / 8 * spread).sqrt(), 2));
  }
  return at::softmax(at::cat(rows), 1);
}

TopClassPredictive ProbitTopClasses(const at::Tensor& m, const at::Tensor& outputs,
                                    const at::Tensor& variance) {
  const at::Tensor all = at::zeros_like(m).scatter_(1, outputs, variance);
  const at::Tensor left_out = at::ones_like(m, at::kBool).scatter_(1, outputs, false);
  TopClassPredictive result;
  result.mean = ProbitProbabilities(m, all);
  result.left_out_probability = (result.mean * left_out).sum(1);
  const double none = -std::numeric_limits<double>::infinity();
  const at::Tensor most =
      at::logsumexp(m.clamp_min(0).masked_fill(left_out.logical_not(), none), at::IntArrayRef({1}));
  const at::Tensor top =
      at::logsumexp(ModeratedLogits(m.gather(1, outputs), variance), at::IntArrayRef({1}));
  result.left_out_bound = at::sigmoid(most - top);
  return result;
}

at::Tensor BernoulliProbit(const at::Tensor& m, const at::Tensor& variance) {
  return at::sigmoid(ModeratedLogits(m, variance));
}

BernoulliPredictive IntegrateBernoulli(const at::Tensor& m, const at::Tensor& variance) {
  const at::Tensor flat = m.reshape(-1), deviation = variance.clamp_min(0).sqrt().reshape(-1);
  BernoulliPredictive result{at::empty_like(flat), at::empty_like(flat), {}};
  const int64_t n = flat.size(0), block = kBlockNumel / LogitGrid().nodes.size(0);
  for (int64_t begin = 0; begin < n; begin += block) {
    const int64_t count = std::min(block, n - begin);
    const auto [mean, entropy] =
        BernoulliMoments(flat.narrow(0, begin, count), deviation.narrow(0, begin, count));
    result.mean.narrow(0, begin, count).copy_(mean);
    result.aleatoric.narrow(0, begin, count).copy_(entropy);
  }
  result.mean = result.mean.view(m.sizes());
  result.aleatoric = result.aleatoric.view(m.sizes());
  result.epistemic = (BinaryEntropy(result.mean) - result.aleatoric).clamp_min(0);
  return result;
}

at::Tensor BinaryEntropy(const at::Tensor& probabilities) {
  const at::Tensor rest = 1 - probabilities;
  return -at::xlogy(probabilities, probabilities) - at::xlogy(rest, rest);
}

at::Tensor Entropy(const at::Tensor& probabilities) {
  return -at::xlogy(probabilities, probabilities).sum(-1);
}

}  // namespace laplaced
