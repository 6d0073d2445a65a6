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
  Shared(const OodInputs& inputs, const Likelihood& likelihood, const OodKnowledge& knowledge)
      : inputs_(inputs), likelihood_(likelihood), knowledge_(knowledge) {}

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
  const at::Tensor& phi() const { return inputs_.features; }
  const FeatureScores& features() const { return *knowledge_.features; }
  const ClassTemplates& templates() const { return *knowledge_.templates; }
  const std::vector<ScoreScale>& combined() const { return knowledge_.combined; }
  // The score of that name; combined shares its parts with those who asked for them.
  const at::Tensor& Value(const std::string& score);
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
  const OodKnowledge& knowledge_;
  at::Tensor p_, moderated_;
  std::map<std::string, at::Tensor> values_;
};

at::Tensor OneMinusMax(const at::Tensor& p) { return 1 - p.amax(1); }

at::Tensor Energy(Shared& s) {
  return s.bernoulli() ? -at::softplus(s.f()).sum(1) : -at::logsumexp(s.f(), 1);
}

at::Tensor PlainEntropy(Shared& s) {
  return s.bernoulli() ? BinaryEntropy(s.p()).sum(1) : Entropy(s.p());
}

at::Tensor Gen(Shared& s) {
  constexpr int64_t kLargest = 100;
  constexpr double kGamma = 0.1;
  const at::Tensor& p = s.p();
  const at::Tensor top = p.size(1) > kLargest ? std::get<0>(p.topk(kLargest, 1)) : p;
  // 1 - p from rounding may fall below zero.
  return (top.pow(kGamma) * (1 - top).clamp_min(0).pow(kGamma)).sum(1);
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

at::Tensor Combined(Shared& s);

enum class Needs { kLogits, kFeatures, kVariance, kCovariance, kOutside };

// What a score can only be made of with more than a network and a posterior.
enum class Takes { kNothing, kTemplates, kFeatures, kFeaturesByClass, kFeaturesAndHead, kScales };

struct Score {
  const char* name;
  bool categorical;
  bool bernoulli;
  bool gaussian;
  Needs needs;
  Takes takes;
  at::Tensor (*compute)(Shared&);
};

constexpr Score kScores[] = {
    {"msp", true, false, false, Needs::kLogits, Takes::kNothing,
     [](Shared& s) { return OneMinusMax(s.p()); }},
    {"max_logit", true, true, false, Needs::kLogits, Takes::kNothing,
     [](Shared& s) { return -s.f().amax(1); }},
    {"energy", true, true, false, Needs::kLogits, Takes::kNothing, Energy},
    {"entropy", true, true, false, Needs::kLogits, Takes::kNothing, PlainEntropy},
    {"gen", true, false, false, Needs::kLogits, Takes::kNothing, Gen},
    {"kl_matching", true, false, false, Needs::kLogits, Takes::kTemplates,
     [](Shared& s) { return s.templates().LeastDivergence(s.f()); }},
    {"mahalanobis", true, true, true, Needs::kFeatures, Takes::kFeatures,
     [](Shared& s) { return s.features().Mahalanobis(s.phi()); }},
    {"relative_mahalanobis", true, false, false, Needs::kFeatures, Takes::kFeaturesByClass,
     [](Shared& s) { return s.features().RelativeMahalanobis(s.phi()); }},
    {"knn", true, true, true, Needs::kFeatures, Takes::kFeatures,
     [](Shared& s) { return s.features().Knn(s.phi()); }},
    {"vim", true, false, false, Needs::kFeatures, Takes::kFeaturesAndHead,
     [](Shared& s) { return s.features().Vim(s.phi(), s.f()); }},
    {"react", true, false, false, Needs::kFeatures, Takes::kFeaturesAndHead,
     [](Shared& s) { return s.features().React(s.phi()); }},
    {"variance", true, true, true, Needs::kVariance, Takes::kNothing,
     [](Shared& s) { return s.variance().sum(1); }},
    {"laplace_entropy", true, true, false, Needs::kVariance, Takes::kNothing, LaplaceEntropy},
    {"laplace_msp", true, false, false, Needs::kVariance, Takes::kNothing,
     [](Shared& s) { return OneMinusMax(at::softmax(s.moderated(), 1)); }},
    {"moderated_energy", true, false, false, Needs::kVariance, Takes::kNothing,
     [](Shared& s) { return -at::logsumexp(s.moderated(), 1); }},
    {"mutual_information", true, true, false, Needs::kCovariance, Takes::kNothing,
     MutualInformation},
    {"local_ensemble", true, true, true, Needs::kOutside, Takes::kNothing,
     [](Shared& s) { return s.outside(); }},
    {"combined", true, false, false, Needs::kVariance, Takes::kScales, Combined},
    {"information_gain", false, false, true, Needs::kCovariance, Takes::kNothing, InformationGain},
};

bool ForLikelihood(const Score& score, Likelihood::Kind kind) {
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

// What is missing for a score that suits the likelihood; empty if nothing is.
std::string Missing(const Score& score, const OodKnowledge& knowledge) {
  if (score.needs == Needs::kOutside && !knowledge.has_directions) {
    return "needs a posterior with directions";
  }
  const FeatureScores* features = knowledge.features.get();
  switch (score.takes) {
    case Takes::kNothing:
      return "";
    case Takes::kTemplates:
      return knowledge.templates != nullptr ? "" : "needs a posterior with validation data";
    case Takes::kFeatures:
      return features != nullptr ? "" : "needs features, which this posterior has none of";
    case Takes::kFeaturesByClass:
      if (features == nullptr) return "needs features, which this posterior has none of";
      return features->has_classes() ? "" : "needs training examples of two classes at least";
    case Takes::kFeaturesAndHead:
      if (features == nullptr) return "needs features, which this posterior has none of";
      return features->has_head() ? "" : "needs the features of the last linear layer";
    case Takes::kScales:
      return !knowledge.combined.empty() ? "" : "needs features and validation data that differ";
  }
  return "";
}

bool Fits(const Score& score, const OodKnowledge& knowledge) {
  return ForLikelihood(score, knowledge.kind) && Missing(score, knowledge).empty();
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

const at::Tensor& Shared::Value(const std::string& score) {
  return Cached(values_[score], [&] { return FindScore(score)->compute(*this); });
}

at::Tensor Combined(Shared& s) {
  return Combine(s.combined(), [&](const std::string& score) { return s.Value(score); });
}

bool FromPosterior(const Score& score) {
  return score.needs != Needs::kLogits && score.needs != Needs::kFeatures;
}

}  // namespace

std::vector<std::string> OodScoreNames(const OodKnowledge& knowledge) {
  std::vector<std::string> names;
  for (const Score& score : kScores) {
    if (Fits(score, knowledge)) names.push_back(score.name);
  }
  return names;
}

std::string DefaultOodScore(const OodKnowledge& knowledge) {
  if (!knowledge.combined.empty()) return "combined";
  switch (knowledge.kind) {
    case Likelihood::Kind::kCategorical:
      return "moderated_energy";
    case Likelihood::Kind::kBernoulli:
      return "laplace_entropy";
    case Likelihood::Kind::kGaussian:
      break;
  }
  return "variance";
}

std::vector<std::string> CombinedParts() { return {"knn", "react", "moderated_energy"}; }

at::Tensor Combine(const std::vector<ScoreScale>& scales,
                   const std::function<at::Tensor(const std::string& score)>& values) {
  constexpr double kSharpness = 2;
  std::vector<at::Tensor> views;
  for (const ScoreScale& scale : scales) {
    const at::Tensor centred = values(scale.score) - scale.median;
    views.push_back(scale.spread > 0 ? centred / scale.spread : at::zeros_like(centred));
  }
  return at::logsumexp(kSharpness * at::stack(views), 0) / kSharpness;
}

absl::Status CheckOodScores(const std::string& field, const std::vector<std::string>& names,
                            const OodKnowledge& knowledge) {
  for (size_t i = 0; i < names.size(); ++i) {
    const Score* score = FindScore(names[i]);
    if (score != nullptr && Fits(*score, knowledge)) continue;
    const bool known = score != nullptr && ForLikelihood(*score, knowledge.kind);
    return FieldError(
        absl::StrCat(field, "[", i, "]"),
        absl::StrCat("expected one of ", absl::StrJoin(OodScoreNames(knowledge), ", "), "; got \"",
                     names[i].substr(0, 100), "\"",
                     known ? absl::StrCat(", which ", Missing(*score, knowledge)) : ""));
  }
  return absl::OkStatus();
}

absl::Status CheckOodScoresIn(VarianceMode mode, const std::string& field,
                              const std::vector<std::string>& names) {
  const bool top = mode == VarianceMode::kTopClasses;
  if (!top && mode != VarianceMode::kSampled) return absl::OkStatus();
  for (size_t i = 0; i < names.size(); ++i) {
    const Score& score = *FindScore(names[i]);
    if (!FromPosterior(score)) continue;
    std::string reason;
    if (top) {
      reason =
          "TOP_CLASSES knows the variance of some outputs only; take a score from logits or "
          "features";
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
  return std::any_of(names.begin(), names.end(),
                     [](const std::string& name) { return FromPosterior(*FindScore(name)); });
}

bool NeedsFeatures(const std::vector<std::string>& names) {
  return std::any_of(names.begin(), names.end(), [](const std::string& name) {
    const Score& score = *FindScore(name);
    return score.needs == Needs::kFeatures || score.takes == Takes::kScales;
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
                                         const OodInputs& inputs, const Likelihood& likelihood,
                                         const OodKnowledge& knowledge) {
  Shared shared(inputs, likelihood, knowledge);
  std::vector<at::Tensor> scores;
  for (const std::string& name : names) scores.push_back(shared.Value(name));
  return scores;
}

}  // namespace laplaced
