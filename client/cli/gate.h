// Conditions on scored rows that decide what a command exits with: `ood_rate<=0.05`.
//
//   NAME OP NUMBER, blanks allowed between them
//   NAME  ood_rate        share of rows that the first score with a threshold flags
//         ood_rate.SCORE  share of rows that this score flags
//         mean.SCORE      mean and largest value of this score
//         max.SCORE
//   OP    < <= > >=
//
// Free functions on values; thread-safe.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/score_summary.h"

namespace laplace::cli {

struct Gate {
  enum class Statistic { kOodRate, kMean, kMax };
  enum class Comparison { kBelow, kAtMost, kAbove, kAtLeast };
  std::string text;  // as it was given
  Statistic statistic = Statistic::kOodRate;
  std::string score;  // empty: the first one with a threshold
  Comparison comparison = Comparison::kAtMost;
  double bound = 0;
};

// INVALID_ARGUMENT says what was expected.
absl::StatusOr<Gate> ParseGate(const std::string& text);

// Whether scores of these names and thresholds can be held against the gate: INVALID_ARGUMENT if
// the score is not among them, FAILED_PRECONDITION if a threshold is missing.
absl::Status CheckGate(const Gate& gate, const std::vector<ScoreSummary::Score>& scores);

struct GateResult {
  bool holds = false;
  // "gate ood_rate<=0.05 failed: 0.25 (1 of 4 rows flagged by energy)".
  std::string message;
};

// The summary has rows and passes CheckGate. A NaN holds against nothing.
GateResult Evaluate(const Gate& gate, const ScoreSummary& summary);

}  // namespace laplace::cli
