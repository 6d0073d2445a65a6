#include "server/ood/scores.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/laplace/predictive.h"
#include "server/model/field_error.h"

namespace laplaced {
namespace {

// Quantities that several scores share, computed when first asked for.
class Shared {
 public:
  Shared(const OodInputs& inputs, const Likelihood& likelihood, const LowRankPosterior* posterior)
      : inputs_(inputs), likelihood_(likelihood), posterior_(posterior) {}

  const at::Tensor& f() const { return inputs_.f; }
  const Likelihood& likelihood() const { return likelihood_; }
  const at::Tensor& p() {
    return Cached(p_, [&] { return at::softmax(f(), 1); });
  }
  const at::Tensor& variance() {
    return Cached(variance_, [&] { return posterior_->FunctionalVariance(inputs_.t, inputs_.g); });
  }
  const at::Tensor& covariance() {
    return Cached(covariance_,
                  [&] { return posterior_->FunctionalCovariance(inputs_.t, inputs_.g); });
  }
  const at::Tensor& moderated() {
    return Cached(moderated_, [&] { return ModeratedLogits(f(), variance()); });
  }
  at::Tensor Outside() const {
    return (inputs_.g.diagonal(0, 1, 2).sum(1) - inputs_.t.square().sum({1, 2})).clamp_min(0);
  }

 private:
  template <typename Compute>
  static const at::Tensor& Cached(at::Tensor& slot, Compute compute) {
    if (!slot.defined()) slot = compute();
    return slot;
  }

  const OodInputs& inputs_;
  const Likelihood& likelihood_;
  const LowRankPosterior* posterior_;
  at::Tensor p_, variance_, covariance_, moderated_;
};

at::Tensor OneMinusMax(const at::Tensor& p) { return 1 - p.amax(1); }

at::Tensor InformationGain(Shared& s) {
  const double noise = s.likelihood().sigma_noise * s.likelihood().sigma_noise;
  const at::Tensor identity = at::eye(s.f().size(1), s.f().options());
  return 0.5 * at::logdet(identity + s.covariance() / noise);
}

struct Score {
  const char* name;
  bool categorical;
  bool gaussian;
  bool posterior;
  at::Tensor (*compute)(Shared&);
};

constexpr Score kScores[] = {
    {"msp", true, false, false, [](Shared& s) { return OneMinusMax(s.p()); }},
    {"max_logit", true, false, false, [](Shared& s) { return -s.f().amax(1); }},
    {"energy", true, false, false, [](Shared& s) { return -at::logsumexp(s.f(), 1); }},
    {"entropy", true, false, false, [](Shared& s) { return Entropy(s.p()); }},
    {"variance", true, true, true, [](Shared& s) { return s.variance().sum(1); }},
    {"laplace_entropy", true, false, true,
     [](Shared& s) { return Entropy(at::softmax(s.moderated(), 1)); }},
    {"laplace_msp", true, false, true,
     [](Shared& s) { return OneMinusMax(at::softmax(s.moderated(), 1)); }},
    {"moderated_energy", true, false, true,
     [](Shared& s) { return -at::logsumexp(s.moderated(), 1); }},
    {"mutual_information", true, false, true,
     [](Shared& s) { return SamplePredictive(s.f(), s.covariance()).epistemic; }},
    {"local_ensemble", true, true, true, [](Shared& s) { return s.Outside(); }},
    {"information_gain", false, true, true, InformationGain},
};

bool Fits(const Score& score, Likelihood::Kind kind) {
  return kind == Likelihood::Kind::kCategorical ? score.categorical : score.gaussian;
}

const Score* FindScore(const std::string& name) {
  const auto it = std::find_if(std::begin(kScores), std::end(kScores),
                               [&](const Score& s) { return name == s.name; });
  return it == std::end(kScores) ? nullptr : it;
}

}  // namespace

std::vector<std::string> OodScoreNames(Likelihood::Kind kind) {
  std::vector<std::string> names;
  for (const Score& score : kScores) {
    if (Fits(score, kind)) names.push_back(score.name);
  }
  return names;
}

std::string DefaultOodScore(Likelihood::Kind kind) {
  return kind == Likelihood::Kind::kCategorical ? "laplace_entropy" : "variance";
}

absl::Status CheckOodScores(const std::string& field, const std::vector<std::string>& names,
                            Likelihood::Kind kind) {
  for (size_t i = 0; i < names.size(); ++i) {
    const Score* score = FindScore(names[i]);
    if (score != nullptr && Fits(*score, kind)) continue;
    return FieldError(absl::StrCat(field, "[", i, "]"),
                      absl::StrCat("expected one of ", absl::StrJoin(OodScoreNames(kind), ", "),
                                   "; got \"", names[i].substr(0, 100), "\""));
  }
  return absl::OkStatus();
}

bool NeedsPosterior(const std::vector<std::string>& names) {
  return std::any_of(names.begin(), names.end(),
                     [](const std::string& name) { return FindScore(name)->posterior; });
}

std::vector<at::Tensor> ComputeOodScores(const std::vector<std::string>& names,
                                         const OodInputs& inputs, const Likelihood& likelihood,
                                         const LowRankPosterior* posterior) {
  Shared shared(inputs, likelihood, posterior);
  std::vector<at::Tensor> scores;
  for (const std::string& name : names) scores.push_back(FindScore(name)->compute(shared));
  return scores;
}

}  // namespace laplaced
