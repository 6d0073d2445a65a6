// laplace predict
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/batches.h"
#include "client/cli/context.h"
#include "client/cli/input_options.h"
#include "client/cli/json_output.h"
#include "client/cli/metrics.h"
#include "client/cli/progress.h"
#include "client/cli/table.h"

namespace laplace::cli {
namespace {

using client::Model;
using client::Prediction;

struct PredictOptions {
  InputOptions input;
  std::string link;
  absl::optional<double> prior_precision;
};

std::string ClassName(const Model& model, int64_t index) {
  const bool named = index < static_cast<int64_t>(model.class_names.size());
  return named ? model.class_names[index] : absl::StrCat("class ", index);
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

Json Metrics(const std::vector<float>& probabilities, int64_t classes,
             const std::vector<int64_t>& labels) {
  return {{"accuracy", Accuracy(probabilities, classes, labels)},
          {"nll", NegativeLogLikelihood(probabilities, classes, labels)},
          {"ece", ExpectedCalibrationError(probabilities, classes, labels)}};
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

absl::Status PrintPrediction(const Context& context, const PredictOptions& options,
                             const Model& model, const Prediction& prediction,
                             const absl::optional<client::Array>& targets) {
  const int64_t first_row = options.input.files.rows.begin;
  const bool categorical = model.likelihood == client::Likelihood::kCategorical;
  std::vector<int64_t> labels;
  if (categorical && targets) {
    absl::StatusOr<std::vector<int64_t>> read = ClassLabels(*targets, prediction.outputs);
    if (!read.ok()) return read.status();
    labels = *std::move(read);
  }
  const Json map = Metrics(prediction.map_mean, prediction.outputs, labels);
  const Json laplace = Metrics(prediction.mean, prediction.outputs, labels);
  if (context.json) {
    Json json = ToJson(prediction, model, first_row);
    if (!labels.empty()) json["metrics"] = {{"plain_network", map}, {"laplace", laplace}};
    Print(json);
    return absl::OkStatus();
  }
  Print(categorical ? ClassTable(model, prediction, labels, first_row)
                    : RegressionTable(prediction, first_row));
  if (!labels.empty()) Print("\n" + MetricsTable(map, laplace));
  return absl::OkStatus();
}

absl::Status Predict(const Context& context, const PredictOptions& options) {
  auto client = context.Connect();
  if (!client.ok()) return client.status();
  const auto model = GetReadyModel(**client, options.input.model);
  if (!model.ok()) return model.status();
  absl::StatusOr<Examples> examples = ReadInput(options.input, *model);
  if (!examples.ok()) return examples.status();

  client::PredictRequest request;
  request.model = options.input.model.name;
  request.version = options.input.model.version;
  request.inputs = std::move(examples->inputs);
  request.prior_precision = options.prior_precision;
  request.ood_scores = options.input.ood_scores;
  if (options.link == "probit") request.link_approx = client::LinkApprox::kProbit;
  if (options.link == "mc") request.link_approx = client::LinkApprox::kMonteCarlo;
  absl::StatusOr<Prediction> prediction;
  {
    ProgressLine line("predicting");
    const bool several = request.inputs.rows() > options.input.batch_size;
    prediction =
        PredictRows(**client, request, options.input.batch_size, [&](int64_t done, int64_t total) {
          if (!several) return;
          line.Update(static_cast<double>(done) / total, absl::StrCat(Count(done), " rows"));
        });
  }
  if (!prediction.ok()) return prediction.status();
  return PrintPrediction(context, options, *model, *prediction, examples->targets);
}

}  // namespace

void AddPredictVerb(CLI::App& app, Context& context) {
  CLI::App* verb = app.add_subcommand(
      "predict", "Predict with uncertainty; with labels, also say how good the predictions are");
  const auto options = std::make_shared<PredictOptions>();
  AddInputOptions(*verb, options->input);
  verb->add_option("--labels", options->input.files.targets,
                   "True classes: .npy, .npz (array y, targets or labels) or IDX (default: from "
                   "the input file, if it has them)")
      ->type_name("FILE");
  AddChoice(*verb, "--link", options->link, {"probit", "mc"},
            "How Gaussian outputs become probabilities (default probit)");
  verb->add_option_function<double>(
          "--prior-precision", [options](double value) { options->prior_precision = value; },
          "Prior precision for this request only (default the posterior's)")
      ->type_name("X");
  SetExample(*verb,
             "Example:\n"
             "  laplace predict fashion_cnn --input t10k-images-idx3-ubyte.gz \\\n"
             "      --labels t10k-labels-idx1-ubyte.gz --limit 20");
  verb->callback([&context, options] {
    context.command = [&context, options] { return Predict(context, *options); };
  });
}

}  // namespace laplace::cli
