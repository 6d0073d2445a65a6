#include "server/laplace/draw_moments.h"

#include <utility>

namespace laplaced {

DrawMoments::DrawMoments(at::Tensor f, Likelihood::Kind kind, bool covariance)
    : f_(std::move(f)), kind_(kind) {
  const int64_t b = f_.size(0), c = f_.size(1);
  variance_ = at::zeros_like(f_);
  row_sums_ = at::zeros_like(f_);
  if (covariance) covariance_ = at::zeros({b, c, c}, f_.options());
  if (kind_ == Likelihood::Kind::kGaussian) return;
  mean_ = at::zeros_like(f_);
  entropy_ =
      kind_ == Likelihood::Kind::kCategorical ? at::zeros({b}, f_.options()) : at::zeros_like(f_);
}

void DrawMoments::Add(int64_t begin, const at::Tensor& deviation) {
  const at::Tensor d = deviation.to(at::kDouble);
  const int64_t b = d.size(0);
  variance_.narrow(0, begin, b).add_(d.square());
  row_sums_.narrow(0, begin, b).add_(d * d.sum(1, true));
  if (covariance_.defined()) {
    covariance_.narrow(0, begin, b).baddbmm_(d.unsqueeze(2), d.unsqueeze(1));
  }
  const at::Tensor f = f_.narrow(0, begin, b) + d;
  switch (kind_) {
    case Likelihood::Kind::kCategorical: {
      const at::Tensor p = at::softmax(f, 1);
      mean_.narrow(0, begin, b).add_(p);
      entropy_.narrow(0, begin, b).add_(Entropy(p));
      break;
    }
    case Likelihood::Kind::kBernoulli: {
      const at::Tensor p = at::sigmoid(f);
      mean_.narrow(0, begin, b).add_(p);
      entropy_.narrow(0, begin, b).add_(BinaryEntropy(p));
      break;
    }
    case Likelihood::Kind::kGaussian:
      break;
  }
}

SampledPredictive DrawMoments::Categorical(int64_t draws) const {
  SampledPredictive result{mean_ / draws, entropy_ / draws, {}};
  result.epistemic = (Entropy(result.mean) - result.aleatoric).clamp_min(0);
  return result;
}

BernoulliPredictive DrawMoments::Bernoulli(int64_t draws) const {
  BernoulliPredictive result{mean_ / draws, entropy_ / draws, {}};
  result.epistemic = (BinaryEntropy(result.mean) - result.aleatoric).clamp_min(0);
  return result;
}

}  // namespace laplaced
