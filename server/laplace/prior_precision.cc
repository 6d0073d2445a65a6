#include "server/laplace/prior_precision.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"
#include "server/laplace/predictive.h"

namespace laplaced {

std::vector<double> PriorGrid(double center) {
  constexpr int kPerDecade = 7;
  constexpr int kFirst = -3 * kPerDecade, kLast = 5 * kPerDecade;
  std::vector<double> grid;
  for (int i = kFirst; i <= kLast; ++i) {
    grid.push_back(center * std::pow(10.0, static_cast<double>(i) / kPerDecade));
  }
  return grid;
}

at::Tensor PredictiveLoss(const Likelihood& likelihood, const at::Tensor& f,
                          const at::Tensor& variance, const at::Tensor& targets) {
  if (likelihood.kind == Likelihood::Kind::kGaussian) {
    const at::Tensor total = variance + likelihood.sigma_noise * likelihood.sigma_noise;
    return 0.5 * ((f - targets).square() / total + (2 * M_PI * total).log()).sum(1);
  }
  return likelihood.Loss(ModeratedLogits(f, variance), targets);
}

size_t BestByValidation(const std::vector<PriorCandidate>& candidates, std::string* warning) {
  const auto best = std::min_element(
      candidates.begin(), candidates.end(),
      [](const auto& a, const auto& b) { return a.validation_nll < b.validation_nll; });
  if (best == candidates.begin() || best + 1 == candidates.end()) {
    *warning = absl::StrFormat(
        "the tuned prior_precision %.4g is at the edge of the grid [%.4g, %.4g]: the validation "
        "data ask for %s",
        best->prior_precision, candidates.front().prior_precision,
        candidates.back().prior_precision,
        best == candidates.begin() ? "more uncertainty than the grid offers"
                                   : "the plain network's prediction");
  }
  return static_cast<size_t>(best - candidates.begin());
}

double Evidence(const Posterior& posterior, const EvidenceTerms& terms) {
  return LogMarginalLikelihood(posterior, terms.mean_loss * static_cast<double>(posterior.n_data),
                               terms.prior);
}

namespace {

// The evidence with noise `sigma` in place of the one that loss and curvature were measured with.
double EvidenceAt(const Posterior& posterior, const EvidenceTerms& terms, double sigma) {
  if (sigma == terms.sigma_noise) return Evidence(posterior, terms);
  const double ratio = terms.sigma_noise * terms.sigma_noise / (sigma * sigma);
  const auto outputs = static_cast<double>(terms.n_outputs);
  const double constant =
      0.5 * outputs * std::log(2 * M_PI * terms.sigma_noise * terms.sigma_noise);
  EvidenceTerms moved = terms;
  moved.mean_loss =
      (terms.mean_loss - constant) * ratio + 0.5 * outputs * std::log(2 * M_PI * sigma * sigma);
  // The curvature grows by `ratio`, which the likelihood's factor can carry as well.
  Posterior scaled = posterior;
  scaled.temperature = posterior.temperature / ratio;
  const double evidence = Evidence(scaled, moved);
  // Evidence divided the loss by that temperature too.
  const double loss = moved.mean_loss * static_cast<double>(posterior.n_data);
  return evidence + loss / scaled.temperature - loss / posterior.temperature;
}

}  // namespace

EvidenceSearch MaximiseEvidence(const Posterior& posterior, const EvidenceTerms& terms, bool prior,
                                bool noise) {
  constexpr int kMostSteps = 200;
  constexpr double kTolerance = 1e-6;
  EvidenceSearch search;
  search.prior_precision = posterior.prior_precision;
  search.sigma_noise = terms.sigma_noise;
  const double n = static_cast<double>(posterior.n_data) / posterior.temperature;
  double squares = 0;  // of the residuals, mean over examples
  if (noise) {
    const double variance = terms.sigma_noise * terms.sigma_noise;
    const double constant =
        0.5 * static_cast<double>(terms.n_outputs) * std::log(2 * M_PI * variance);
    squares = 2 * variance * (terms.mean_loss - constant);
  }
  bool converged = false;
  for (int step = 0; step < kMostSteps && !converged; ++step) {
    Posterior now = posterior.WithPriorPrecision(search.prior_precision);
    search.steps.push_back({search.prior_precision, 0, EvidenceAt(now, terms, search.sigma_noise)});
    const double ratio = std::pow(terms.sigma_noise / search.sigma_noise, 2);
    const double gamma =
        posterior.structure->EffectiveParameters({noise ? n * ratio : n, search.prior_precision});
    double change = 0;
    if (prior) {
      const double next =
          std::clamp(gamma / std::max(terms.prior.weighted_norm_squared, 1e-300), 1e-12, 1e12);
      change = std::abs(std::log(next / search.prior_precision));
      search.prior_precision = next;
    }
    if (noise) {
      const double free = std::max(n * static_cast<double>(terms.n_outputs) - gamma, 1.0);
      const double next = std::sqrt(std::max(n * squares / free, 1e-24));
      change = std::max(change, std::abs(std::log(next / search.sigma_noise)));
      search.sigma_noise = next;
    }
    converged = change < kTolerance;
  }
  search.steps.push_back({search.prior_precision, 0,
                          EvidenceAt(posterior.WithPriorPrecision(search.prior_precision), terms,
                                     search.sigma_noise)});
  if (!converged) {
    search.warning = absl::StrFormat(
        "the evidence did not settle in %d steps; prior_precision %.4g is the last of them",
        kMostSteps, search.prior_precision);
  }
  return search;
}

}  // namespace laplaced
