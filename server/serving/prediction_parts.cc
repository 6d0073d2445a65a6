#include "server/serving/prediction_parts.h"

#include "server/laplace/predictive.h"

namespace laplaced {
namespace {

at::Tensor LinkMean(const OutputGaussian& block, LinkApprox link,
                    const SampledPredictive& sampled) {
  switch (link) {
    case LinkApprox::kProbit:
      break;
    case LinkApprox::kMonteCarlo:
      return sampled.mean;
    case LinkApprox::kLaplaceBridge:
      return LaplaceBridgeProbabilities(
          block.f, block.variance,
          block.row_sums.defined() ? block.row_sums : block.covariance.sum(2));
    case LinkApprox::kMeanField:
      return MeanFieldProbabilities(block.f, block.covariance);
  }
  return ProbitProbabilities(block.f, block.variance);
}

void AppendClassification(const OutputGaussian& block, const PredictOptions& options,
                          Prediction& out) {
  const SampledPredictive sampled =
      block.drawn ? *block.drawn : SamplePredictive(block.f, block.covariance, block.outputs);
  if (block.outputs.defined()) {
    const TopClassPredictive top = ProbitTopClasses(block.f, block.outputs, block.variance);
    Append(out.mean, top.mean);
    Append(out.left_out_probability, top.left_out_probability);
    Append(out.left_out_bound, top.left_out_bound);
    const at::Tensor c = block.outputs.contiguous();
    out.variance_outputs.insert(out.variance_outputs.end(), c.data_ptr<int64_t>(),
                                c.data_ptr<int64_t>() + c.numel());
  } else {
    Append(out.mean, LinkMean(block, options.link_approx, sampled));
  }
  Append(out.map_mean, at::softmax(block.f, 1));
  Append(out.epistemic, sampled.epistemic);
  Append(out.aleatoric, sampled.aleatoric);
}

void AppendLabels(const OutputGaussian& block, const PredictOptions& options, Prediction& out) {
  const BernoulliPredictive integrated =
      block.drawn_labels ? *block.drawn_labels : IntegrateBernoulli(block.f, block.variance);
  Append(out.mean, options.link_approx == LinkApprox::kMonteCarlo
                       ? integrated.mean
                       : BernoulliProbit(block.f, block.variance));
  Append(out.map_mean, at::sigmoid(block.f));
  Append(out.epistemic, integrated.epistemic);
  Append(out.aleatoric, integrated.aleatoric);
}

void AppendRegression(const OutputGaussian& block, const Likelihood& likelihood, Prediction& out) {
  Append(out.mean, block.f);
  Append(out.map_mean, block.f);
  Append(out.epistemic, block.variance);
  Append(out.aleatoric,
         at::full_like(block.variance, likelihood.sigma_noise * likelihood.sigma_noise));
}

}  // namespace

OutputGaussian FromLinearized(const Linearized& block, const at::Tensor& outputs) {
  OutputGaussian result;
  result.f = block.f;
  result.covariance = block.covariance[0];
  result.variance = result.covariance.diagonal(0, 1, 2);
  result.outputs = outputs;
  return result;
}

OutputGaussian FromDraws(const at::Tensor& f, const DrawMoments& moments, int64_t draws,
                         Likelihood::Kind kind, bool covariance) {
  OutputGaussian result;
  result.f = f;
  result.variance = moments.Variance(draws);
  result.row_sums = moments.RowSums(draws);
  if (covariance) result.covariance = moments.Covariance(draws);
  if (kind == Likelihood::Kind::kCategorical) result.drawn = moments.Categorical(draws);
  if (kind == Likelihood::Kind::kBernoulli) result.drawn_labels = moments.Bernoulli(draws);
  return result;
}

void AppendPrediction(const OutputGaussian& block, const Likelihood& likelihood,
                      const PredictOptions& options, Prediction& out) {
  Append(out.functional_mean, block.f);
  Append(out.functional_variance, block.variance);
  if (options.return_covariance) Append(out.functional_covariance, block.covariance);
  switch (likelihood.kind) {
    case Likelihood::Kind::kCategorical:
      return AppendClassification(block, options, out);
    case Likelihood::Kind::kBernoulli:
      return AppendLabels(block, options, out);
    case Likelihood::Kind::kGaussian:
      return AppendRegression(block, likelihood, out);
  }
}

void Append(std::vector<float>& out, const at::Tensor& t) {
  const at::Tensor c = t.to(at::kFloat).contiguous();
  out.insert(out.end(), c.data_ptr<float>(), c.data_ptr<float>() + c.numel());
}

void AppendScores(std::vector<ScoreValues>& out, const std::vector<at::Tensor>& scores) {
  for (size_t i = 0; i < scores.size(); ++i) {
    const at::Tensor c = scores[i].to(at::kDouble).contiguous();
    out[i].values.insert(out[i].values.end(), c.data_ptr<double>(),
                         c.data_ptr<double>() + c.numel());
  }
}

}  // namespace laplaced
