// Text; JSON is in evaluation_json.cc.
#include "client/cli/evaluation_report.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/mode_options.h"
#include "client/cli/table.h"

namespace laplace::cli {
namespace {

constexpr Table::Align kRight = Table::Align::kRight;

std::string Fixed(double value) { return absl::StrFormat("%.3f", value); }

// Four decimals where they say something.
std::string Decimal(double value) {
  const double size = std::abs(value);
  return size >= 0.001 && size < 100 ? absl::StrFormat("%.4f", value) : Number(value);
}

std::string Percentage(double share) { return absl::StrFormat("%.1f", 100 * share); }

// "0.969 [0.967, 0.971]"; "-" where the metric is not defined.
template <typename Format>
std::string Text(const Estimate& estimate, const Format& format) {
  if (std::isnan(estimate.value)) return "-";
  if (!estimate.interval) return format(estimate.value);
  return absl::StrCat(format(estimate.value), " [", format(estimate.interval->lower), ", ",
                      format(estimate.interval->upper), "]");
}

std::string Rate(const absl::optional<Estimate>& estimate) {
  return estimate ? Text(*estimate, Percentage) : "";
}

std::string MetricTitle(const std::string& metric) {
  if (metric == "nll" || metric == "ece" || metric == "rmse") {
    std::string title = metric;
    for (char& c : title) c = static_cast<char>(c - 'a' + 'A');
    return title;
  }
  if (metric == "coverage_95") return "coverage of 95 % intervals";
  if (metric == "label_accuracy") return "accuracy, single labels";
  if (metric == "subset_accuracy") return "accuracy, all labels of a row";
  return metric == "brier" ? "Brier score" : metric;
}

std::string ScoreTitle(const ScoreEvaluation& score) {
  return absl::StrCat(score.name, score.is_default ? " (default)" : "");
}

bool HasThreshold(const Evaluation& evaluation) {
  return std::any_of(evaluation.scores.begin(), evaluation.scores.end(),
                     [](const ScoreEvaluation& score) { return score.threshold.has_value(); });
}

Table QualityTable(const Evaluation& evaluation) {
  Table table({{"ON ID DATA"}, {"PLAIN NETWORK", kRight}, {"WITH LAPLACE", kRight}});
  for (const QualityEvaluation& row : evaluation.quality) {
    table.AddRow(
        {MetricTitle(row.metric), Text(row.plain_network, Decimal), Text(row.laplace, Decimal)});
  }
  return table;
}

// All scores over all sets, and what their thresholds do to ID data.
Table RankingTable(const Evaluation& evaluation) {
  const bool several = evaluation.ood.size() > 1;
  const bool thresholds = HasThreshold(evaluation);
  std::vector<Table::Column> columns = {{"SCORE"}};
  if (!evaluation.ood.empty()) columns.push_back({several ? "MEAN AUROC" : "AUROC", kRight});
  for (const ScoredSet& set : evaluation.ood) {
    if (several) columns.push_back({set.name, kRight});
  }
  if (thresholds) {
    columns.insert(columns.end(), {{"THRESHOLD", kRight},
                                   {"ID FLAGGED, %", kRight},
                                   {"TARGET, %", kRight},
                                   {"CALIBRATED, %", kRight}});
  }
  Table table(columns);
  for (const ScoreEvaluation& score : evaluation.scores) {
    std::vector<std::string> cells = {ScoreTitle(score)};
    if (!evaluation.ood.empty()) cells.push_back(Text(score.mean_auroc, Fixed));
    for (const SetEvaluation& set : score.sets) {
      if (several) cells.push_back(Text(Estimate{set.metrics[kAuroc].value, {}}, Fixed));
    }
    if (score.threshold) {
      cells.insert(cells.end(), {Number(*score.threshold), Rate(score.id_flagged),
                                 Percentage(score.target_id_rate)});
      if (score.calibration) {
        cells.push_back(absl::StrCat("[", Percentage(score.calibration->rate_lower), ", ",
                                     Percentage(score.calibration->rate_upper), "]"));
      }
    }
    table.AddRow(std::move(cells));
  }
  return table;
}

Table SetTable(const Evaluation& evaluation, size_t set) {
  std::vector<Table::Column> columns = {{"SCORE"},
                                        {"AUROC", kRight},
                                        {"AUPR-IN", kRight},
                                        {"AUPR-OUT", kRight},
                                        {"FPR95, OOD POSITIVE", kRight},
                                        {"FPR95, ID POSITIVE", kRight}};
  if (HasThreshold(evaluation)) columns.push_back({"OOD FLAGGED, %", kRight});
  Table table(columns);
  for (const ScoreEvaluation& score : evaluation.scores) {
    std::vector<std::string> cells = {ScoreTitle(score)};
    for (const Estimate& estimate : score.sets[set].metrics) {
      cells.push_back(Text(estimate, Fixed));
    }
    cells.push_back(Rate(score.sets[set].flagged));
    table.AddRow(std::move(cells));
  }
  return table;
}

// Paragraphs of text, and tables under a heading.
class Document {
 public:
  explicit Document(TextForm form) : markdown_(form == TextForm::kMarkdown) {}

  void Heading(const std::string& text) {
    Block(absl::StrCat(markdown_ ? "### " : "", text, "\n"));
    if (!markdown_) after_heading_ = true;
  }
  void Add(const Table& table) { Block(markdown_ ? table.ToMarkdown() : table.ToString()); }
  void Lines(const std::vector<std::string>& lines) {
    if (lines.empty()) return;
    std::string block;
    for (const std::string& line : lines)
      absl::StrAppend(&block, markdown_ ? "- " : "", line, "\n");
    Block(block);
  }
  const std::string& text() const { return text_; }

 private:
  void Block(const std::string& block) {
    if (!text_.empty() && !after_heading_) text_ += "\n";
    after_heading_ = false;
    text_ += block;
  }

  const bool markdown_;
  bool after_heading_ = false;
  std::string text_;
};

std::string Examples(const ScoredSet& set) {
  return absl::StrCat(Count(set.rows), set.rows == 1 ? " example of " : " examples of ", set.file);
}

std::string Summary(const Evaluation& evaluation) {
  std::string text =
      absl::StrCat(VersionedName(evaluation.model, evaluation.version), ", posterior ",
                   evaluation.posterior_id, ", ID: ", Examples(evaluation.id));
  if (evaluation.variance_mode != client::VarianceMode::kDefault) {
    absl::StrAppend(&text, ", variances ", VarianceModeName(evaluation.variance_mode));
  }
  return text;
}

std::vector<std::string> Legend(const Evaluation& evaluation) {
  std::vector<std::string> lines;
  if (!evaluation.ood.empty()) {
    lines = {"AUROC: chance that an OOD example scores above an ID one.",
             "AUPR-IN, AUPR-OUT: average precision with ID and with OOD as positive.",
             "FPR95, OOD positive (OpenOOD): share of ID flagged where 95 % of OOD are caught.",
             "FPR95, ID positive (ODIN, Hendrycks): share of OOD accepted where 95 % of ID are "
             "accepted."};
  }
  if (HasThreshold(evaluation)) {
    lines.push_back(
        "FLAGGED: share above the threshold. CALIBRATED: 95 % interval of the ID rate that the "
        "posterior promises.");
  }
  if (evaluation.bootstrap.replicates > 0) {
    lines.push_back(
        absl::StrFormat("Brackets: %g %% intervals, exact binomial for shares flagged, else from "
                        "%s resamples (seed "
                        "%d).",
                        100 * evaluation.bootstrap.confidence,
                        Count(evaluation.bootstrap.replicates), evaluation.bootstrap.seed));
  }
  return lines;
}

}  // namespace

std::string EvaluationText(const Evaluation& evaluation, TextForm form) {
  Document document(form);
  document.Heading(Summary(evaluation));
  if (!evaluation.quality.empty()) document.Add(QualityTable(evaluation));
  if (!evaluation.ood.empty() || HasThreshold(evaluation)) document.Add(RankingTable(evaluation));
  for (size_t set = 0; set < evaluation.ood.size(); ++set) {
    document.Heading(absl::StrCat(evaluation.ood[set].name, ": ", Examples(evaluation.ood[set])));
    document.Add(SetTable(evaluation, set));
  }
  document.Lines(Legend(evaluation));
  return document.text();
}

}  // namespace laplace::cli
