#include "server/laplace/predictive.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace laplaced {

at::Tensor ModeratedLogits(const at::Tensor& m, const at::Tensor& variance) {
  return m / (1 + M_PI / 8 * variance).sqrt();
}

at::Tensor ProbitProbabilities(const at::Tensor& m, const at::Tensor& variance) {
  return at::softmax(ModeratedLogits(m, variance), -1);
}

SampledPredictive SamplePredictive(const at::Tensor& m, const at::Tensor& covariance) {
  const int64_t batch = m.size(0), c = m.size(1);
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t{20250424});
  const at::Tensor half = at::randn({kMcSamples / 2, c}, generator, m.options());
  const at::Tensor noise = at::cat({half, -half});  // [S, C]

  const auto [values, vectors] = at::linalg_eigh(covariance, "L");
  const at::Tensor root =
      at::bmm(vectors * values.clamp_min(0).sqrt().unsqueeze(1), vectors.transpose(1, 2));
  SampledPredictive result;
  std::vector<at::Tensor> means, entropies;
  const int64_t block = std::max<int64_t>(1, (int64_t{1} << 22) / (kMcSamples * c));
  for (int64_t begin = 0; begin < batch; begin += block) {
    const int64_t count = std::min(block, batch - begin);
    const at::Tensor f = m.narrow(0, begin, count).unsqueeze(1) +
                         at::matmul(noise.unsqueeze(0), root.narrow(0, begin, count));  // [b, S, C]
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

at::Tensor Entropy(const at::Tensor& probabilities) {
  return -at::xlogy(probabilities, probabilities).sum(-1);
}

}  // namespace laplaced
