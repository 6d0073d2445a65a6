#include "client/cli/prediction_report.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/metrics.h"
#include "client/cli/table.h"

namespace laplace::cli {
namespace {

using client::Model;
using client::Prediction;

// The name of a class or label; `what` it is goes before the number of one without a name.
std::string OutputName(const Model& model, const char* what, int64_t index) {
  const bool named = index < static_cast<int64_t>(model.class_names.size());
  return named ? model.class_names[index] : absl::StrCat(what, " ", index);
}

std::string ClassName(const Model& model, int64_t index) {
  return OutputName(model, "class", index);
}

// One column for each verdict and, without one, for each value.
void AddScoreColumns(const Prediction& prediction, std::vector<Table::Column>& columns) {
  for (const client::OodScore& score : prediction.ood_scores) {
    columns.push_back({score.name, Table::Align::kRight});
    if (score.threshold) columns.push_back({"OOD"});
  }
}

void AddScoreCells(const Prediction& prediction, int64_t row, std::vector<std::string>& cells) {
  for (const client::OodScore& score : prediction.ood_scores) {
    cells.push_back(Number(score.values[row]));
    if (score.threshold) cells.push_back(score.is_ood[row] ? "yes" : "no");
  }
}

std::string ClassTable(const Model& model, const Prediction& prediction,
                       const std::vector<int64_t>& labels, int64_t first_row) {
  std::vector<Table::Column> columns = {{"ROW", Table::Align::kRight}};
  if (!labels.empty()) columns.push_back({"TRUE CLASS"});
  columns.insert(columns.end(), {{"PREDICTED"},
                                 {"PROBABILITY", Table::Align::kRight},
                                 {"PLAIN NETWORK", Table::Align::kRight},
                                 {"EPISTEMIC", Table::Align::kRight},
                                 {"ALEATORIC", Table::Align::kRight}});
  AddScoreColumns(prediction, columns);
  Table table(columns);
  for (int64_t row = 0; row < prediction.batch; ++row) {
    const int64_t predicted = ArgMax(prediction.mean, prediction.outputs, row);
    const int64_t at = row * prediction.outputs + predicted;
    std::vector<std::string> cells = {absl::StrCat(first_row + row)};
    if (!labels.empty()) cells.push_back(ClassName(model, labels[row]));
    cells.insert(cells.end(),
                 {ClassName(model, predicted), Probability(prediction.mean[at]),
                  Probability(prediction.map_mean[at]), Number(prediction.epistemic[row]),
                  Number(prediction.aleatoric[row])});
    AddScoreCells(prediction, row, cells);
    table.AddRow(std::move(cells));
  }
  return table.ToString();
}

// One line per example and output: mean and the two parts of its standard deviation.
std::string RegressionTable(const Prediction& prediction, int64_t first_row) {
  std::vector<Table::Column> columns = {
      {"ROW", Table::Align::kRight},           {"OUTPUT", Table::Align::kRight},
      {"MEAN", Table::Align::kRight},          {"STD", Table::Align::kRight},
      {"EPISTEMIC STD", Table::Align::kRight}, {"NOISE STD", Table::Align::kRight}};
  AddScoreColumns(prediction, columns);
  Table table(columns);
  for (int64_t row = 0; row < prediction.batch; ++row) {
    for (int64_t c = 0; c < prediction.outputs; ++c) {
      const int64_t at = row * prediction.outputs + c;
      const double epistemic = prediction.epistemic[at];
      const double aleatoric = prediction.aleatoric[at];
      std::vector<std::string> cells = {
          absl::StrCat(first_row + row), absl::StrCat(c),
          Number(prediction.mean[at]),   Number(std::sqrt(epistemic + aleatoric)),
          Number(std::sqrt(epistemic)),  Number(std::sqrt(aleatoric))};
      if (c == 0) AddScoreCells(prediction, row, cells);
      table.AddRow(std::move(cells));
    }
  }
  return table.ToString();
}

// "cat 0.930, dog 0.610": the labels that are more likely there than not.
std::string LabelList(const Model& model, const std::vector<float>& probabilities, int64_t n_labels,
                      int64_t row) {
  std::vector<std::string> parts;
  for (const int64_t label : LikelyLabels(probabilities, n_labels, row)) {
    parts.push_back(absl::StrCat(OutputName(model, "label", label), " ",
                                 Probability(probabilities[row * n_labels + label])));
  }
  return parts.empty() ? "none" : absl::StrJoin(parts, ", ");
}

// Labels are independent, so the parts of their uncertainty add up.
std::string LabelTable(const Model& model, const Prediction& prediction, int64_t first_row) {
  std::vector<Table::Column> columns = {{"ROW", Table::Align::kRight},
                                        {"LABELS (AT LEAST 0.5)"},
                                        {"PLAIN NETWORK"},
                                        {"EPISTEMIC", Table::Align::kRight},
                                        {"ALEATORIC", Table::Align::kRight}};
  AddScoreColumns(prediction, columns);
  Table table(columns);
  const int64_t n_labels = prediction.outputs;
  const auto sum = [n_labels](const std::vector<float>& parts, int64_t row) {
    const auto begin = parts.begin() + row * n_labels;
    return Number(std::accumulate(begin, begin + n_labels, 0.0));
  };
  for (int64_t row = 0; row < prediction.batch; ++row) {
    std::vector<std::string> cells = {
        absl::StrCat(first_row + row), LabelList(model, prediction.mean, n_labels, row),
        LabelList(model, prediction.map_mean, n_labels, row), sum(prediction.epistemic, row),
        sum(prediction.aleatoric, row)};
    AddScoreCells(prediction, row, cells);
    table.AddRow(std::move(cells));
  }
  return table.ToString();
}

}  // namespace

std::string PredictionTable(const Model& model, const Prediction& prediction,
                            const std::vector<int64_t>& labels, int64_t first_row) {
  switch (model.likelihood) {
    case client::Likelihood::kCategorical:
      return ClassTable(model, prediction, labels, first_row);
    case client::Likelihood::kBernoulli:
      return LabelTable(model, prediction, first_row);
    default:
      return RegressionTable(prediction, first_row);
  }
}

std::string VarianceNote(const Prediction& prediction) {
  switch (prediction.variance_mode) {
    case client::VarianceMode::kTopClasses: {
      const auto worst =
          std::max_element(prediction.left_out_bound.begin(), prediction.left_out_bound.end());
      const double bound = worst == prediction.left_out_bound.end() ? 0 : *worst;
      return absl::StrCat("\nvariances of the ", prediction.variance_width,
                          " likeliest classes of each row only; the others together have at most ",
                          Percent(bound), " of the probability in any row\n");
    }
    case client::VarianceMode::kSampled:
      return absl::StrCat("\nvariances over ", prediction.samples,
                          " functions drawn from the posterior, each to ",
                          Percent(prediction.variance_relative_error), " (standard error)\n");
    case client::VarianceMode::kLastLayer:
      return "\nvariances of the last layer's parameters alone\n";
    default:
      return "";
  }
}

std::string MetricsTable(const Json& map, const Json& laplace) {
  Table table({{""},
               {"ACCURACY", Table::Align::kRight},
               {"NLL", Table::Align::kRight},
               {"ECE", Table::Align::kRight}});
  for (const auto& [name, metrics] : {std::pair<std::string, Json>("plain network", map),
                                      std::pair<std::string, Json>("with Laplace", laplace)}) {
    table.AddRow(
        {name, Percent(metrics["accuracy"]), Number(metrics["nll"]), Number(metrics["ece"])});
  }
  return table.ToString();
}

}  // namespace laplace::cli
