#include "server/serving/ood_calibration.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "server/model/torch_status.h"
#include "server/ood/threshold.h"
#include "server/serving/feature_blocks.h"

namespace laplaced {
namespace {

constexpr char kCombined[] = "combined";

void Append(std::vector<double>& out, const at::Tensor& scores) {
  const at::Tensor s = scores.contiguous();
  out.insert(out.end(), s.data_ptr<double>(), s.data_ptr<double>() + s.numel());
}

// Where the parts of combined lie on the data that the thresholds are of; none unless all have
// quantiles.
std::vector<ScoreScale> ScalesOf(const std::vector<OodThresholdRecord>& thresholds) {
  constexpr size_t kMedian = 4, kUpper = 7;  // in kIdQuantiles
  static_assert(kIdQuantiles[kMedian] == .5 && kIdQuantiles[kUpper] == .95);
  std::vector<ScoreScale> scales;
  const std::vector<std::string> parts = CombinedParts();
  for (const std::string& part : parts) {
    for (const OodThresholdRecord& threshold : thresholds) {
      const std::vector<double>& quantiles = threshold.id_quantiles;
      if (threshold.score != part || quantiles.size() != std::size(kIdQuantiles)) continue;
      scales.push_back({part, quantiles[kMedian], quantiles[kUpper] - quantiles[kMedian]});
    }
  }
  return scales.size() == parts.size() ? scales : std::vector<ScoreScale>();
}

// By more than the rounding errors of equal examples. The parts are distances between unit vectors
// and energies in nats, whose errors do not shrink with them.
bool Spreads(const ScoreScale& scale) {
  constexpr double kRounding = 1e-5;
  return scale.spread > kRounding * std::max(1.0, std::abs(scale.median));
}

}  // namespace

TrainingFeatures::TrainingFeatures(const LoadedModel& model, FeatureLayer layer, uint64_t seed,
                                   absl::optional<FeatureStatistics> start, int64_t first)
    : model_(model),
      layer_(std::move(layer)),
      gatherer_(start ? FeatureGatherer(*std::move(start), seed)
                      : FeatureGatherer(model.info.likelihood == LikelihoodKind::kCategorical
                                            ? model.info.n_outputs
                                            : 1,
                                        layer_.width, seed, first)) {}

absl::StatusOr<at::Tensor> TrainingFeatures::Forward(const at::Tensor& x,
                                                     const at::Tensor& targets) {
  LAPLACED_ASSIGN_OR_RETURN(const FeatureForward forward, FeaturesOfInputs(model_, layer_, x));
  const bool classes = model_.info.likelihood == LikelihoodKind::kCategorical;
  gatherer_.Add(forward.features, forward.f, classes ? targets : at::zeros({x.size(0)}, at::kLong));
  return forward.f;
}

std::vector<ScoreScale> CombinedScales(const std::vector<OodThresholdRecord>& thresholds) {
  const auto is_combined = [](const OodThresholdRecord& t) { return t.score == kCombined; };
  std::vector<ScoreScale> scales = ScalesOf(thresholds);
  if (std::any_of(scales.begin(), scales.end(), Spreads) ||
      std::any_of(thresholds.begin(), thresholds.end(), is_combined)) {
    return scales;
  }
  return {};
}

OodCalibration::OodCalibration(const LoadedModel& model, OodKnowledge knowledge, const Ranks& ranks)
    : model_(model), knowledge_(std::move(knowledge)), ranks_(ranks) {
  knowledge_.combined.clear();  // they follow from the data
  names_ = OodScoreNames(knowledge_);
  values_.resize(names_.size());
  const bool categorical = knowledge_.kind == Likelihood::Kind::kCategorical;
  if (categorical && knowledge_.templates == nullptr) gathered_.emplace(model.info.n_outputs);
}

absl::Status OodCalibration::Add(const Likelihood& likelihood, const at::Tensor& x,
                                 const Linearized& batch) {
  return CatchTorch("thresholds", [&]() -> absl::Status {
    OodInputs inputs = ToOodInputs(batch);
    if (knowledge_.features != nullptr) {
      LAPLACED_ASSIGN_OR_RETURN(const FeatureForward forward,
                                FeaturesOfInputs(model_, knowledge_.features->layer(), x));
      inputs.features = forward.features;
    }
    const auto scores = ComputeOodScores(names_, inputs, likelihood, knowledge_);
    for (size_t i = 0; i < names_.size(); ++i) Append(values_[i], scores[i]);
    if (gathered_) {
      gathered_->Add(batch.f);
      f_.push_back(batch.f.to(at::kFloat));
    }
    return absl::OkStatus();
  });
}

absl::Status OodCalibration::FinishTemplates() {
  if (!gathered_) return absl::OkStatus();
  at::Tensor sums = gathered_->means * gathered_->counts.unsqueeze(1);
  LAPLACED_RETURN_IF_ERROR(ranks_.Sum(gathered_->counts));
  if (ranks_.size() > 1) {
    LAPLACED_RETURN_IF_ERROR(ranks_.Sum(sums));
    gathered_->means = sums / gathered_->counts.clamp_min(1).unsqueeze(1);
  }
  if (gathered_->empty()) return absl::OkStatus();
  knowledge_.templates = std::make_shared<const ClassTemplates>(*gathered_);
  gathered_.reset();
  return absl::OkStatus();
}

// REQUIRES: a name of `names_`, kl_matching once its templates are known, or combined once its
// scales are.
std::vector<double> OodCalibration::ValuesOf(const std::string& score) const {
  for (size_t i = 0; i < names_.size(); ++i) {
    if (names_[i] == score) return values_[i];
  }
  std::vector<double> values;
  if (score == kCombined) {
    Append(values, Combine(knowledge_.combined, [&](const std::string& part) {
             return at::tensor(ValuesOf(part), at::kDouble);
           }));
    return values;
  }
  for (const at::Tensor& f : f_) {
    Append(values, knowledge_.templates->LeastDivergence(f.to(at::kDouble)));
  }
  return values;
}

absl::StatusOr<std::vector<OodThresholdRecord>> OodCalibration::Thresholds(double target_id_rate) {
  using Result = absl::StatusOr<std::vector<OodThresholdRecord>>;
  return CatchTorch("thresholds", [&]() -> Result {
    std::vector<OodThresholdRecord> thresholds;
    LAPLACED_RETURN_IF_ERROR(FinishTemplates());
    const auto add = [&](const std::string& score) -> absl::Status {
      LAPLACED_ASSIGN_OR_RETURN(const at::Tensor all,
                                ranks_.Gather(at::tensor(ValuesOf(score), at::kDouble)));
      std::vector<double> values;
      Append(values, all);
      if (values.empty()) return absl::OkStatus();
      const OodThreshold threshold = CalibrateThreshold(values, target_id_rate);
      thresholds.push_back({score, threshold.threshold, target_id_rate,
                            static_cast<int64_t>(values.size()), threshold.rate_lower,
                            threshold.rate_upper, IdQuantiles(std::move(values))});
      return absl::OkStatus();
    };
    for (const std::string& name : OodScoreNames(knowledge_)) LAPLACED_RETURN_IF_ERROR(add(name));
    knowledge_.combined = CombinedScales(thresholds);
    equal_ = knowledge_.combined.empty() && !ScalesOf(thresholds).empty();
    if (!knowledge_.combined.empty()) LAPLACED_RETURN_IF_ERROR(add(kCombined));
    return thresholds;
  });
}

}  // namespace laplaced
