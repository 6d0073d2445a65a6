#include "server/ood/scores.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/laplace/predictive.h"
#include "server/model/field_error.h"

namespace laplaced {
namespace {

// Quantities that several scores share, computed when first asked for.
class Shared {
 public:
  Shared(const OodInputs& inputs, const Likelihood& likelihood)
      : inputs_(inputs), likelihood_(likelihood) {}

  const at::Tensor& f() const { return inputs_.f; }
  const Likelihood& likelihood() const { return likelihood_; }
  bool bernoulli() const { return likelihood_.kind == Likelihood::Kind::kBernoulli; }
  const at::Tensor& p() {
    return Cached(p_, [&] { return bernoulli() ? at::sigmoid(f()) : at::softmax(f(), 1); });
  }
  at::Tensor variance() const {
    return inputs_.variance.defined() ? inputs_.variance : inputs_.covariance.diagonal(0, 1, 2);
  }
  const at::Tensor& covariance() const { return inputs_.covariance; }
  const at::Tensor& outside() const { return inputs_.outside; }
  const at::Tensor& mutual_information() const { return inputs_.mutual_information; }
  const at::Tensor& moderated() {
    return Cached(moderated_, [&] { return ModeratedLogits(f(), variance()); });
  }

 private:
  template <typename Compute>
  static const at::Tensor& Cached(at::Tensor& slot, Compute compute) {
    if (!slot.defined()) slot = compute();
    return slot;
  }

  const OodInputs& inputs_;
  const Likelihood& likelihood_;
  at::Tensor p_, moderated_;
};

at::Tensor OneMinusMax(const at::Tensor& p) { return 1 - p.amax(1); }

at::Tensor Energy(Shared& s) {
  return s.bernoulli() ? -at::softplus(s.f()).sum(1) : -at::logsumexp(s.f(), 1);
}

at::Tensor PlainEntropy(Shared& s) {
  return s.bernoulli() ? BinaryEntropy(s.p()).sum(1) : Entropy(s.p());
}

at::Tensor LaplaceEntropy(Shared& s) {
  return s.bernoulli() ? BinaryEntropy(at::sigmoid(s.moderated())).sum(1)
                       : Entropy(at::softmax(s.moderated(), 1));
}

at::Tensor MutualInformation(Shared& s) {
  if (s.mutual_information().defined()) return s.mutual_information();
  return s.bernoulli() ? IntegrateBernoulli(s.f(), s.variance()).epistemic.sum(1)
                       : SamplePredictive(s.f(), s.covariance()).epistemic;
}

at::Tensor InformationGain(Shared& s) {
  const double noise = s.likelihood().sigma_noise * s.likelihood().sigma_noise;
  // By eigenvalues: rounding may leave V with small negative ones.
  return 0.5 * (at::linalg_eigvalsh(s.covariance(), "L").clamp_min(0) / noise).log1p().sum(1);
}

enum class Needs { kLogits, kVariance, kCovariance, kOutside };

struct Score {
  const char* name;
  bool categorical;
  bool bernoulli;
  bool gaussian;
  Needs needs;
  at::Tensor (*compute)(Shared&);
};

constexpr Score kScores[] = {
    {"msp", true, false, false, Needs::kLogits, [](Shared& s) { return OneMinusMax(s.p()); }},
    {"max_logit", true, true, false, Needs::kLogits, [](Shared& s) { return -s.f().amax(1); }},
    {"energy", true, true, false, Needs::kLogits, Energy},
    {"entropy", true, true, false, Needs::kLogits, PlainEntropy},
    {"variance", true, true, true, Needs::kVariance, [](Shared& s) { return s.variance().sum(1); }},
    {"laplace_entropy", true, true, false, Needs::kVariance, LaplaceEntropy},
    {"laplace_msp", true, false, false, Needs::kVariance,
     [](Shared& s) { return OneMinusMax(at::softmax(s.moderated(), 1)); }},
    {"moderated_energy", true, false, false, Needs::kVariance,
     [](Shared& s) { return -at::logsumexp(s.moderated(), 1); }},
    {"mutual_information", true, true, false, Needs::kCovariance, MutualInformation},
    {"local_ensemble", true, true, true, Needs::kOutside, [](Shared& s) { return s.outside(); }},
    {"information_gain", false, false, true, Needs::kCovariance, InformationGain},
};

bool Fits(const Score& score, Likelihood::Kind kind, bool has_directions) {
  if (score.needs == Needs::kOutside && !has_directions) return false;
  switch (kind) {
    case Likelihood::Kind::kCategorical:
      return score.categorical;
    case Likelihood::Kind::kBernoulli:
      return score.bernoulli;
    case Likelihood::Kind::kGaussian:
      return score.gaussian;
  }
  return false;
}

const Score* FindScore(const std::string& name) {
  const auto it = std::find_if(std::begin(kScores), std::end(kScores),
                               [&](const Score& s) { return name == s.name; });
  return it == std::end(kScores) ? nullptr : it;
}

bool AnyNeeds(const std::vector<std::string>& names, Needs needs) {
  return std::any_of(names.begin(), names.end(),
                     [needs](const std::string& name) { return FindScore(name)->needs == needs; });
}

}  // namespace

std::vector<std::string> OodScoreNames(Likelihood::Kind kind, bool has_directions) {
  std::vector<std::string> names;
  for (const Score& score : kScores) {
    if (Fits(score, kind, has_directions)) names.push_back(score.name);
  }
  return names;
}

std::string DefaultOodScore(Likelihood::Kind kind) {
  return kind == Likelihood::Kind::kGaussian ? "variance" : "laplace_entropy";
}

absl::Status CheckOodScores(const std::string& field, const std::vector<std::string>& names,
                            Likelihood::Kind kind, bool has_directions) {
  for (size_t i = 0; i < names.size(); ++i) {
    const Score* score = FindScore(names[i]);
    if (score != nullptr && Fits(*score, kind, has_directions)) continue;
    return FieldError(
        absl::StrCat(field, "[", i, "]"),
        absl::StrCat("expected one of ", absl::StrJoin(OodScoreNames(kind, has_directions), ", "),
                     "; got \"", names[i].substr(0, 100), "\""));
  }
  return absl::OkStatus();
}

absl::Status CheckOodScoresIn(VarianceMode mode, const std::string& field,
                              const std::vector<std::string>& names) {
  const bool top = mode == VarianceMode::kTopClasses;
  if (!top && mode != VarianceMode::kSampled) return absl::OkStatus();
  for (size_t i = 0; i < names.size(); ++i) {
    const Score& score = *FindScore(names[i]);
    if (score.needs == Needs::kLogits) continue;
    std::string reason;
    if (top) {
      reason = "TOP_CLASSES knows the variance of some outputs only; take a score from logits";
    } else if (score.needs == Needs::kOutside) {
      reason = "SAMPLED draws functions and sees no directions";
    } else if (score.compute == InformationGain) {
      reason = "the log determinant of a covariance that is SAMPLED is biased";
    } else {
      continue;
    }
    return FieldError(absl::StrCat(field, "[", i, "]"),
                      absl::StrCat(names[i], " cannot be computed in this mode: ", reason,
                                   ", or the mode EXACT"));
  }
  return absl::OkStatus();
}

bool NeedsPosterior(const std::vector<std::string>& names) {
  return std::any_of(names.begin(), names.end(), [](const std::string& name) {
    return FindScore(name)->needs != Needs::kLogits;
  });
}

LinearizeRequest NeededFor(const std::vector<std::string>& names, const Precisions& precisions) {
  LinearizeRequest request;
  if (AnyNeeds(names, Needs::kCovariance)) {
    request.covariance_at = {precisions};
  } else if (AnyNeeds(names, Needs::kVariance)) {
    request.variance_at = {precisions};
  }
  request.outside = AnyNeeds(names, Needs::kOutside);
  return request;
}

OodInputs ToOodInputs(const Linearized& linearized) {
  OodInputs inputs;
  inputs.f = linearized.f;
  if (!linearized.covariance.empty()) {
    inputs.covariance = linearized.covariance.back();
  } else if (!linearized.variance.empty()) {
    inputs.variance = linearized.variance.back();
  }
  inputs.outside = linearized.outside;
  return inputs;
}

std::vector<at::Tensor> ComputeOodScores(const std::vector<std::string>& names,
                                         const OodInputs& inputs, const Likelihood& likelihood) {
  Shared shared(inputs, likelihood);
  std::vector<at::Tensor> scores;
  for (const std::string& name : names) scores.push_back(FindScore(name)->compute(shared));
  return scores;
}

}  // namespace laplaced
