// laplace score
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/cli/batches.h"
#include "client/cli/context.h"
#include "client/cli/input_options.h"
#include "client/cli/json_output.h"
#include "client/cli/mode_options.h"
#include "client/cli/progress.h"
#include "client/cli/table.h"

namespace laplace::cli {
namespace {

std::string ScoreText(const client::Scores& scores, int64_t first_row) {
  std::vector<Table::Column> columns = {{"ROW", Table::Align::kRight}};
  for (const client::OodScore& score : scores.ood_scores) {
    columns.push_back({absl::AsciiStrToUpper(score.name), Table::Align::kRight});
    if (score.threshold) columns.push_back({"OOD"});
  }
  Table table(columns);
  const size_t rows = scores.ood_scores.empty() ? 0 : scores.ood_scores[0].values.size();
  for (size_t row = 0; row < rows; ++row) {
    std::vector<std::string> cells = {absl::StrCat(first_row + row)};
    for (const client::OodScore& score : scores.ood_scores) {
      cells.push_back(Number(score.values[row]));
      if (score.threshold) cells.push_back(score.is_ood[row] ? "yes" : "no");
    }
    table.AddRow(cells);
  }
  std::string text = table.ToString() + "\n";
  const bool calibrated = scores.variance_mode != client::VarianceMode::kSampled &&
                          scores.variance_mode != client::VarianceMode::kLastLayer;
  for (const client::OodScore& score : scores.ood_scores) {
    if (!score.threshold) {
      absl::StrAppend(&text, score.name, ": no threshold, because ",
                      calibrated ? "the posterior was fitted without validation data"
                                 : "thresholds are calibrated for the mode exact",
                      "\n");
      continue;
    }
    const int64_t flagged = std::count(score.is_ood.begin(), score.is_ood.end(), true);
    absl::StrAppend(&text, score.name, ": ", Count(flagged), " of ", Count(rows), " rows flagged (",
                    Percent(static_cast<double>(flagged) / rows),
                    "; data like the training data: ", Percent(score.target_id_rate),
                    "), threshold ", Number(*score.threshold), "\n");
  }
  return text;
}

struct ScoreOptions : InputOptions {
  ModeOptions mode;
};

absl::Status Score(const Context& context, const ScoreOptions& options) {
  auto client = context.Connect();
  if (!client.ok()) return client.status();
  const auto model = GetReadyModel(**client, options.model);
  if (!model.ok()) return model.status();
  absl::StatusOr<Examples> examples = ReadInput(options, *model);
  if (!examples.ok()) return examples.status();

  client::ScoreRequest request;
  request.model = options.model.name;
  request.version = options.model.version;
  request.inputs = std::move(examples->inputs);
  request.ood_scores = options.ood_scores;
  request.variance_mode = ToVarianceMode(options.mode.mode);
  request.samples = options.mode.samples;
  request.seed = options.mode.seed;
  absl::StatusOr<client::Scores> scores;
  {
    ProgressLine line("scoring");
    const bool several = request.inputs.rows() > options.batch_size;
    scores = ScoreRows(**client, request, options.batch_size, [&](int64_t done, int64_t total) {
      if (several)
        line.Update(static_cast<double>(done) / total, absl::StrCat(Count(done), " rows"));
    });
  }
  if (!scores.ok()) return scores.status();
  if (context.json) {
    Print(ToJson(*scores, options.files.rows.begin));
  } else {
    Print(ScoreText(*scores, options.files.rows.begin));
  }
  return absl::OkStatus();
}

}  // namespace

void AddScoreVerb(CLI::App& app, Context& context) {
  CLI::App* verb = app.add_subcommand(
      "score", "Score inputs for being out-of-distribution (higher means more so)");
  const auto options = std::make_shared<ScoreOptions>();
  AddInputOptions(*verb, *options);
  AddModeOptions(*verb, {"auto", "exact", "sampled", "last-layer"}, options->mode);
  SetExample(*verb,
             "Example:\n  laplace score fashion_cnn --input new.npz --ood-score msp,variance");
  verb->callback([&context, options] {
    context.command = [&context, options] { return Score(context, *options); };
  });
}

}  // namespace laplace::cli
