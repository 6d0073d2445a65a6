#include "server/laplace/prior_precision.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"
#include "server/laplace/predictive.h"
#include "server/model/torch_status.h"

namespace laplaced {

absl::StatusOr<LinearizedData> Linearize(const EmpiricalRisk& risk, const CapturePlan& plan,
                                         const Dataset& data, const at::Tensor& directions,
                                         const ProgressFn& progress) {
  return CatchTorch("validation data", [&]() -> absl::StatusOr<LinearizedData> {
    std::vector<at::Tensor> f, t, g;
    const int64_t chunk = std::min(risk.chunk_size, ExamplesPerStep(risk.network));
    for (int64_t begin = 0; begin < data.size(); begin += chunk) {
      const int64_t end = std::min(begin + chunk, data.size());
      const at::Tensor x = risk.NetworkInput(data.inputs.narrow(0, begin, end - begin));
      LAPLACED_ASSIGN_OR_RETURN(const JacobianProducts products,
                                ComputeJacobianProducts(risk.network, plan, x, directions));
      f.push_back(products.f.to(at::kDouble));
      t.push_back(products.t.to(at::kFloat));
      g.push_back(products.g);
      if (progress) LAPLACED_RETURN_IF_ERROR(progress(end, data.size()));
    }
    return LinearizedData{at::cat(f), at::cat(t), at::cat(g), data.targets};
  });
}

double PredictiveNll(const LowRankPosterior& posterior, const Likelihood& likelihood,
                     const LinearizedData& data) {
  double sum = 0;
  constexpr int64_t kBlock = 1024;
  for (int64_t begin = 0; begin < data.size(); begin += kBlock) {
    const int64_t count = std::min(kBlock, data.size() - begin);
    const at::Tensor f = data.f.narrow(0, begin, count), y = data.targets.narrow(0, begin, count);
    const at::Tensor variance = posterior.FunctionalVariance(
        data.t.narrow(0, begin, count).to(at::kDouble), data.g.narrow(0, begin, count));
    if (likelihood.kind == Likelihood::Kind::kCategorical) {
      sum += likelihood.Loss(ModeratedLogits(f, variance), y).sum().item<double>();
    } else {
      const at::Tensor total = variance + likelihood.sigma_noise * likelihood.sigma_noise;
      sum += 0.5 * ((f - y).square() / total + (2 * M_PI * total).log()).sum().item<double>();
    }
  }
  return sum / static_cast<double>(data.size());
}

PriorSearch TunePriorPrecision(const LowRankPosterior& posterior, const Likelihood& likelihood,
                               const LinearizedData& data, double center) {
  constexpr int kPerDecade = 7;
  constexpr int kFirst = -3 * kPerDecade, kLast = 5 * kPerDecade;
  PriorSearch search;
  size_t best = 0;
  for (int i = kFirst; i <= kLast; ++i) {
    const double delta = center * std::pow(10.0, static_cast<double>(i) / kPerDecade);
    const double nll = PredictiveNll(posterior.WithPriorPrecision(delta), likelihood, data);
    search.candidates.push_back({delta, nll});
    if (nll < search.candidates[best].validation_nll) best = search.candidates.size() - 1;
  }
  search.prior_precision = search.candidates[best].prior_precision;
  if (best == 0 || best + 1 == search.candidates.size()) {
    search.warning = absl::StrFormat(
        "the tuned prior_precision %.4g is at the edge of the grid [%.4g, %.4g]: the validation "
        "data ask for %s",
        search.prior_precision, search.candidates.front().prior_precision,
        search.candidates.back().prior_precision,
        best == 0 ? "more uncertainty than the grid offers" : "the plain network's prediction");
  }
  return search;
}

}  // namespace laplaced
