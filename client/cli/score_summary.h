// What is said about scored rows in the end, counted as the answers come: nothing is kept but a few
// numbers for each score.
//
// Not synchronised.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "client/cpp/types.h"

namespace laplace::cli {

class ScoreSummary {
 public:
  struct Score {
    std::string name;
    absl::optional<double> threshold;
    double target_id_rate = 0;
    int64_t flagged = 0;  // rows above the threshold
    double mean = 0;
    double max = 0;
  };

  // INTERNAL if these are not the scores and thresholds of the answers before.
  absl::Status Add(const client::Scores& answer);

  int64_t rows() const { return rows_; }
  // In the order of the answers; none before the first one.
  const std::vector<Score>& scores() const { return scores_; }

  // One line for each score: rows flagged, their share against the target, the threshold.
  std::string Text() const;

 private:
  int64_t rows_ = 0;
  std::vector<Score> scores_;
  std::vector<long double> sums_;
  client::VarianceMode mode_ = client::VarianceMode::kDefault;
};

// Of the first rows, in an answer or a summary.
std::string NoThresholdReason(client::VarianceMode mode);

}  // namespace laplace::cli
