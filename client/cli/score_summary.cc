#include "client/cli/score_summary.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "client/cli/table.h"

namespace laplace::cli {

absl::Status ScoreSummary::Add(const client::Scores& answer) {
  if (scores_.empty()) {
    mode_ = answer.variance_mode;
    for (const client::OodScore& score : answer.ood_scores) {
      scores_.push_back({score.name, score.threshold, score.target_id_rate, 0, 0, -INFINITY});
    }
    sums_.resize(scores_.size());
  }
  const auto same = [](const Score& known, const client::OodScore& score) {
    return known.name == score.name && known.threshold == score.threshold;
  };
  if (!std::equal(scores_.begin(), scores_.end(), answer.ood_scores.begin(),
                  answer.ood_scores.end(), same)) {
    return absl::InternalError(absl::StrCat(
        "the server's answer is malformed: other scores or thresholds after row ", rows_));
  }
  if (!answer.ood_scores.empty()) {
    rows_ += static_cast<int64_t>(answer.ood_scores[0].values.size());
  }
  for (size_t i = 0; i < scores_.size(); ++i) {
    const client::OodScore& score = answer.ood_scores[i];
    for (double value : score.values) {
      sums_[i] += value;
      if (value > scores_[i].max || std::isnan(value)) scores_[i].max = value;
    }
    scores_[i].flagged += std::count(score.is_ood.begin(), score.is_ood.end(), true);
    scores_[i].mean = static_cast<double>(sums_[i] / rows_);
  }
  return absl::OkStatus();
}

std::string ScoreSummary::Text() const {
  std::string text;
  for (const Score& score : scores_) {
    if (!score.threshold) {
      absl::StrAppend(&text, score.name, ": no threshold, because ", NoThresholdReason(mode_),
                      "\n");
      continue;
    }
    absl::StrAppend(&text, score.name, ": ", Count(score.flagged), " of ", Count(rows_),
                    " rows flagged (", Percent(static_cast<double>(score.flagged) / rows_),
                    "; data like the training data: ", Percent(score.target_id_rate),
                    "), threshold ", Number(*score.threshold), "\n");
  }
  return text;
}

std::string NoThresholdReason(client::VarianceMode mode) {
  const bool calibrated =
      mode != client::VarianceMode::kSampled && mode != client::VarianceMode::kLastLayer;
  return calibrated ? "the posterior was fitted without validation data"
                    : "thresholds are calibrated for the mode exact";
}

}  // namespace laplace::cli
