#include "client/cli/posterior_report.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/json_output.h"
#include "client/cli/table.h"

namespace laplace::cli {
namespace {

using client::Posterior;

// tr G splits into the K directions and the rest; the rest is what `residual` spreads.
double SpectrumShare(const Posterior& posterior) {
  double sum = 0;
  for (double eigenvalue : posterior.eigenvalues) sum += eigenvalue;
  return posterior.trace > 0 ? sum / posterior.trace : 0;
}

std::string Precision(const Posterior& posterior) {
  if (posterior.prior_candidates.empty()) return Number(posterior.prior_precision);
  const auto best = std::min_element(
      posterior.prior_candidates.begin(), posterior.prior_candidates.end(),
      [](const auto& a, const auto& b) { return a.validation_nll < b.validation_nll; });
  return absl::StrCat(Number(posterior.prior_precision), " (tuned; validation NLL ",
                      Number(posterior.validation_nll_map), " -> ", Number(best->validation_nll),
                      ")");
}

std::string Thresholds(const Posterior& posterior) {
  Table table({{"OOD SCORE"},
               {"THRESHOLD", Table::Align::kRight},
               {"AIMS TO FLAG", Table::Align::kRight},
               {"95 % INTERVAL"},
               {"CALIBRATED ON", Table::Align::kRight}});
  for (const client::OodThreshold& threshold : posterior.ood_thresholds) {
    const bool is_default = threshold.score == posterior.default_ood_score;
    table.AddRow(
        {absl::StrCat(threshold.score, is_default ? " *" : ""), Number(threshold.threshold),
         Percent(threshold.target_id_rate),
         absl::StrCat(Percent(threshold.rate_lower), " to ", Percent(threshold.rate_upper)),
         Count(threshold.count)});
  }
  return absl::StrCat("\n", table.ToString(), "* the default score\n");
}

}  // namespace

std::string PosteriorSummary(const Posterior& posterior) {
  std::vector<std::pair<std::string, std::string>> lines = {
      {"posterior", absl::StrCat(posterior.id, posterior.active ? " (active)" : "")},
      {"model", absl::StrCat(posterior.model, "/", posterior.version)},
      {"directions",
       absl::StrCat(posterior.rank, " of ", Count(posterior.n_parameters), " dimensions")},
      {"debiasing",
       absl::StrCat(DebiasingName(posterior.options.debiasing), ", directions from ",
                    Count(posterior.options.direction_batch_size), " examples, curvature from ",
                    Count(posterior.options.curvature_batch_size))},
      {"prior precision", Precision(posterior)},
      {"  for OOD scores", Number(posterior.ood_prior_precision)},
      {"training examples", Count(posterior.n_data)},
      {"mean training loss", absl::StrCat(Number(posterior.mean_train_loss), " nats")},
      {"log evidence", absl::StrCat(Number(posterior.log_marginal_likelihood), " nats")},
      {"effective parameters", Number(posterior.effective_parameters)}};
  if (!posterior.eigenvalues.empty()) {
    lines.emplace_back(
        "curvature (trace)",
        absl::StrCat(Number(posterior.trace), " +- ", Number(posterior.trace_standard_error), ", ",
                     Percent(SpectrumShare(posterior)), " in the directions"));
  }
  lines.emplace_back("residual", absl::StrCat(ResidualName(posterior.options.residual), ", ",
                                              Number(posterior.residual), " per dimension"));
  lines.emplace_back("seed", absl::StrCat(posterior.options.seed));
  lines.emplace_back("created", posterior.create_time);
  lines.emplace_back("took",
                     absl::StrCat(Seconds(posterior.cost.seconds), ", ",
                                  Count(posterior.cost.curvature_products), " curvature products"));
  lines.emplace_back("training data", ShortHash(posterior.train_dataset_id));
  if (!posterior.validation_dataset_id.empty()) {
    lines.emplace_back("validation data", ShortHash(posterior.validation_dataset_id));
  }
  lines.emplace_back("checkpoint", ShortHash(posterior.checkpoint_sha256));
  lines.emplace_back("made by", posterior.code_version);
  std::string text = NameValueList(lines);
  if (!posterior.ood_thresholds.empty()) text += Thresholds(posterior);
  for (const std::string& warning : posterior.warnings) {
    absl::StrAppend(&text, "\nnote: ", warning, "\n");
  }
  return text;
}

std::string SpectrumTable(const Posterior& posterior, int64_t limit) {
  const int64_t size = std::min(posterior.biased_eigenvalues.size(), posterior.eigenvalues.size());
  const int64_t shown = limit < 0 ? size : std::min(limit, size);
  Table table({{"DIRECTION", Table::Align::kRight},
               {"BIASED", Table::Align::kRight},
               {"DEBIASED", Table::Align::kRight},
               {"+-", Table::Align::kRight},
               {"BIASED/DEBIASED", Table::Align::kRight}});
  for (int64_t i = 0; i < shown; ++i) {
    const bool has_error = i < static_cast<int64_t>(posterior.standard_errors.size());
    table.AddRow({absl::StrCat(i + 1), Number(posterior.biased_eigenvalues[i]),
                  Number(posterior.eigenvalues[i]),
                  has_error ? Number(posterior.standard_errors[i]) : "",
                  Number(posterior.biased_eigenvalues[i] / posterior.eigenvalues[i])});
  }
  std::string text = table.ToString();
  if (shown < size) absl::StrAppend(&text, "... and ", size - shown, " more\n");
  return text;
}

}  // namespace laplace::cli
