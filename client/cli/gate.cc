#include "client/cli/gate.h"

#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "client/cli/table.h"

namespace laplace::cli {
namespace {

constexpr char kOodRate[] = "ood_rate";

absl::Status Expected(absl::string_view what, const std::string& text) {
  return absl::InvalidArgumentError(absl::StrCat("expected ", what, ", got ", text));
}

absl::Status ParseName(absl::string_view name, Gate& gate) {
  const size_t dot = name.find('.');
  const absl::string_view statistic = name.substr(0, dot);
  const bool has_score = dot != absl::string_view::npos;
  if (has_score) gate.score = std::string(name.substr(dot + 1));
  const bool needs_score = statistic == "mean" || statistic == "max";
  const bool complete = has_score ? !gate.score.empty() : !needs_score;
  if ((!needs_score && statistic != kOodRate) || !complete) {
    return Expected("ood_rate, ood_rate.SCORE, mean.SCORE or max.SCORE before the comparison",
                    gate.text);
  }
  gate.statistic = statistic == "mean"  ? Gate::Statistic::kMean
                   : statistic == "max" ? Gate::Statistic::kMax
                                        : Gate::Statistic::kOodRate;
  return absl::OkStatus();
}

const ScoreSummary::Score* Find(const Gate& gate, const std::vector<ScoreSummary::Score>& scores) {
  for (const ScoreSummary::Score& score : scores) {
    if (gate.score.empty() ? score.threshold.has_value() : score.name == gate.score) return &score;
  }
  return nullptr;
}

bool Holds(double value, Gate::Comparison comparison, double bound) {
  switch (comparison) {
    case Gate::Comparison::kBelow:
      return value < bound;
    case Gate::Comparison::kAtMost:
      return value <= bound;
    case Gate::Comparison::kAbove:
      return value > bound;
    case Gate::Comparison::kAtLeast:
      return value >= bound;
  }
  return false;
}

}  // namespace

absl::StatusOr<Gate> ParseGate(const std::string& text) {
  Gate gate;
  gate.text = text;
  const size_t begin = text.find_first_of("<>");
  if (begin == std::string::npos) {
    return Expected("a gate such as ood_rate<=0.05, with <, <=, > or >=", text);
  }
  const bool equal = begin + 1 < text.size() && text[begin + 1] == '=';
  if (text[begin] == '<') {
    gate.comparison = equal ? Gate::Comparison::kAtMost : Gate::Comparison::kBelow;
  } else {
    gate.comparison = equal ? Gate::Comparison::kAtLeast : Gate::Comparison::kAbove;
  }
  const absl::string_view whole = text;
  const absl::Status named = ParseName(absl::StripAsciiWhitespace(whole.substr(0, begin)), gate);
  if (!named.ok()) return named;
  const absl::string_view number = whole.substr(begin + (equal ? 2 : 1));
  if (!absl::SimpleAtod(number, &gate.bound) || !std::isfinite(gate.bound)) {
    return Expected("a finite number after the comparison", text);
  }
  return gate;
}

absl::Status CheckGate(const Gate& gate, const std::vector<ScoreSummary::Score>& scores) {
  const ScoreSummary::Score* score = Find(gate, scores);
  const auto name = [](std::string* out, const ScoreSummary::Score& s) { *out += s.name; };
  const std::string names = absl::StrJoin(scores, ", ", name);
  if (score == nullptr && !gate.score.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("gate ", gate.text, ": expected one of the ",
                                                   "scores that are computed (", names,
                                                   "); name it with --ood-score too"));
  }
  const bool needs_threshold = gate.statistic == Gate::Statistic::kOodRate;
  if (needs_threshold && (score == nullptr || !score->threshold)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "gate ", gate.text, ": there is no threshold for ", gate.score.empty() ? names : gate.score,
        "; set thresholds with laplace posterior calibrate, and score in the mode exact"));
  }
  return absl::OkStatus();
}

GateResult Evaluate(const Gate& gate, const ScoreSummary& summary) {
  const ScoreSummary::Score& score = *Find(gate, summary.scores());
  const std::string rows = absl::StrCat(Count(summary.rows()), " rows");
  double value = 0;
  std::string counts = rows;
  switch (gate.statistic) {
    case Gate::Statistic::kOodRate:
      value = static_cast<double>(score.flagged) / static_cast<double>(summary.rows());
      counts = absl::StrCat(Count(score.flagged), " of ", rows, " flagged by ", score.name);
      break;
    case Gate::Statistic::kMean:
      value = score.mean;
      break;
    case Gate::Statistic::kMax:
      value = score.max;
      break;
  }
  GateResult result;
  result.holds = Holds(value, gate.comparison, gate.bound);
  result.message =
      absl::StrCat("gate ", gate.text, result.holds ? " holds: " : " failed: ", Number(value), " (",
                   counts, ")");
  return result;
}

}  // namespace laplace::cli
