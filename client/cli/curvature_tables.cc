#include "client/cli/curvature_tables.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/table.h"

namespace laplace::cli {
namespace {

using client::Posterior;

std::string Ratio(double biased, double debiased) {
  return debiased == 0 ? "-" : Number(biased / debiased);
}

// Rows of a table that shows `limit` of `size`, or all if it is negative.
int64_t Shown(int64_t limit, int64_t size) { return limit < 0 ? size : std::min(limit, size); }

std::string More(int64_t shown, int64_t size) {
  return shown < size ? absl::StrCat("... and ", size - shown, " more\n") : "";
}

// Without what the posterior does not have: biased curvature, or standard errors.
std::string SpectrumTable(const Posterior& posterior, int64_t limit) {
  const std::vector<double>& biased = posterior.biased_eigenvalues;
  const std::vector<double>& errors = posterior.standard_errors;
  const size_t size = posterior.eigenvalues.size();
  const bool has_biased = biased.size() == size;
  const bool has_errors = errors.size() == size;
  std::vector<Table::Column> columns = {{"DIRECTION", Table::Align::kRight}};
  if (has_biased) columns.push_back({"BIASED", Table::Align::kRight});
  columns.push_back({has_biased ? "DEBIASED" : "CURVATURE", Table::Align::kRight});
  if (has_errors) columns.push_back({"+-", Table::Align::kRight});
  if (has_biased) columns.push_back({"BIASED/DEBIASED", Table::Align::kRight});
  Table table(columns);
  const int64_t shown = Shown(limit, size);
  for (int64_t i = 0; i < shown; ++i) {
    const double eigenvalue = posterior.eigenvalues[i];
    std::vector<std::string> cells = {absl::StrCat(i + 1)};
    if (has_biased) cells.push_back(Number(biased[i]));
    cells.push_back(Number(eigenvalue));
    if (has_errors) cells.push_back(Number(errors[i]));
    if (has_biased) cells.push_back(Ratio(biased[i], eigenvalue));
    table.AddRow(std::move(cells));
  }
  std::string text = table.ToString() + More(shown, size);
  if (posterior.options.debiasing == client::Debiasing::kCrossFit) {
    absl::StrAppend(&text,
                    "cross-fit: the directions of the first batch, then those of the second ",
                    "one, each measured on the other batch; each set counts half\n");
  }
  return text;
}

std::string KfacTable(const Posterior& posterior, int64_t limit) {
  Table table({{"PARAMETER"},
               {"SIZE", Table::Align::kRight},
               {"KIND"},
               {"BIASED SUM", Table::Align::kRight},
               {"DEBIASED SUM", Table::Align::kRight},
               {"BIASED/DEBIASED", Table::Align::kRight}});
  const int64_t shown = Shown(limit, posterior.blocks.size());
  for (int64_t i = 0; i < shown; ++i) {
    const client::ParameterBlock& block = posterior.blocks[i];
    table.AddRow({block.name, Count(block.n_parameters), block.kind, Number(block.biased_sum),
                  Number(block.debiased_sum), Ratio(block.biased_sum, block.debiased_sum)});
  }
  return table.ToString() + More(shown, posterior.blocks.size());
}

std::string BlockTable(const Posterior& posterior) {
  Table table({{"PARAMETER"},
               {"SIZE", Table::Align::kRight},
               {"TRACE", Table::Align::kRight},
               {"RESIDUAL", Table::Align::kRight}});
  for (const client::ParameterBlock& block : posterior.blocks) {
    table.AddRow(
        {block.name, Count(block.n_parameters), Number(block.trace), Number(block.residual)});
  }
  return table.ToString();
}

}  // namespace

std::string CurvatureTables(const Posterior& posterior, int64_t limit) {
  if (posterior.options.structure == client::Structure::kKfac) return KfacTable(posterior, limit);
  std::string text = SpectrumTable(posterior, limit);
  if (limit < 0 && !posterior.blocks.empty()) {
    absl::StrAppend(&text, "\n", BlockTable(posterior));
  }
  return text;
}

}  // namespace laplace::cli
