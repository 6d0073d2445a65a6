// laplace score
#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/batches.h"
#include "client/cli/context.h"
#include "client/cli/gate.h"
#include "client/cli/input_options.h"
#include "client/cli/json_output.h"
#include "client/cli/mode_options.h"
#include "client/cli/progress.h"
#include "client/cli/row_input.h"
#include "client/cli/score_summary.h"
#include "client/cli/score_writer.h"
#include "client/cli/table.h"

namespace laplace::cli {
namespace {

// Attempts in a row without an answer: a server may restart within some 15 seconds.
constexpr int kStreamAttempts = 10;

constexpr std::pair<const char*, ScoreFormat> kEndings[] = {
    {".csv", ScoreFormat::kCsv}, {".ndjson", ScoreFormat::kNdjson}, {".npz", ScoreFormat::kNpz}};

struct ScoreOptions : InputOptions {
  ModeOptions mode;
  std::string output;  // table, json, a file or "-"; empty: as the command says for every verb
  std::string format;  // of "-"
  std::vector<Gate> gates;

  bool to_screen() const { return output.empty() || output == "table" || output == "json"; }
};

std::string CheckOutput(const std::string& output) {
  if (output == "table" || output == "json" || output == "-") return "";
  for (const auto& [ending, format] : kEndings) {
    if (absl::EndsWith(output, ending)) return "";
  }
  return absl::StrCat("expected table, json, - or a file that ends in .csv, .npz or .ndjson, got ",
                      output);
}

ScoreFormat FormatOf(const ScoreOptions& options) {
  for (const auto& [ending, format] : kEndings) {
    if (absl::EndsWith(options.output, ending)) return format;
  }
  return options.format == "ndjson" ? ScoreFormat::kNdjson : ScoreFormat::kCsv;
}

std::string ScoreTable(const client::Scores& scores, int64_t first_row) {
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
  return table.ToString();
}

// What is already known about the gates before any row is scored. The posterior that this is known
// of must answer: its id.
absl::StatusOr<std::string> CheckGates(const client::Client& client, const client::Model& model,
                                       const ScoreOptions& options) {
  if (options.gates.empty()) return std::string();
  const auto posterior = client.GetPosterior(model.name, model.version);
  if (!posterior.ok()) return posterior.status();
  std::vector<std::string> names = options.ood_scores;
  if (names.empty()) names.push_back(posterior->default_ood_score);
  std::vector<ScoreSummary::Score> scores;
  for (const std::string& name : names) {
    scores.emplace_back();
    scores.back().name = name;
    for (const client::OodThreshold& threshold : posterior->ood_thresholds) {
      if (threshold.score == name) scores.back().threshold = threshold.threshold;
    }
  }
  for (const Gate& gate : options.gates) {
    if (absl::Status status = CheckGate(gate, scores); !status.ok()) return status;
  }
  return posterior->id;
}

// Shows how far the rows are, if they are more than one batch.
class ScoreProgress {
 public:
  ScoreProgress(int64_t total, int64_t batch_size) : total_(total), batch_size_(batch_size) {}

  void Update(int64_t done) {
    if (total_ >= 0 && total_ <= batch_size_) return;
    const double seconds = absl::ToDoubleSeconds(absl::Now() - start_);
    const auto rate = static_cast<int64_t>(static_cast<double>(done) / std::max(seconds, 1e-3));
    const std::string detail = absl::StrCat(Count(done), " rows, ", Count(rate), " rows/s");
    if (total_ >= 0) {
      line_.Update(static_cast<double>(done) / static_cast<double>(total_), detail);
    } else if (done >= batch_size_) {
      line_.Update(detail);
    }
  }

 private:
  const int64_t total_;
  const int64_t batch_size_;
  const absl::Time start_ = absl::Now();
  ProgressLine line_{"scoring"};
};

// Streams all rows. What each answer is for `take` says.
absl::Status Stream(const Context& context, const client::ScoreRequest& request,
                    const client::StreamOptions& stream_options, RowInput& input,
                    const ScoreOptions& options, const client::ScoresSink& take) {
  auto client_options = context.Options();
  if (!client_options.ok()) return client_options.status();
  client_options->retry.max_attempts = kStreamAttempts;
  auto client = client::Client::Connect(context.server, *client_options);
  if (!client.ok()) return client.status();
  ScoreProgress progress(input.total(), options.batch_size);
  // Between rows on the same screen a bar would only disturb.
  const bool shown = options.output != "-" || isatty(STDOUT_FILENO) == 0;
  return (*client)->ScoreStream(
      request, [&input] { return input.Next(); },
      [&](int64_t first_row, client::Scores scores) {
        const int64_t rows = static_cast<int64_t>(scores.ood_scores[0].values.size());
        if (absl::Status status = take(first_row, std::move(scores)); !status.ok()) return status;
        if (shown) progress.Update(first_row + rows - stream_options.first_row);
        return absl::OkStatus();
      },
      stream_options);
}

// Says what came out, and whether the gates hold. `all` are the rows for the screen.
void Report(Context& context, const ScoreOptions& options, const ScoreSummary& summary,
            const client::Scores& all, int64_t first_row) {
  const bool json = options.output.empty() ? context.json : options.output == "json";
  if (options.output == "-") {
    std::cerr << summary.Text();
  } else if (!options.to_screen()) {
    Print(summary.Text());
  } else if (json) {
    Print(ToJson(all, first_row));
  } else {
    Print(absl::StrCat(ScoreTable(all, first_row), "\n", summary.Text()));
  }
  for (const Gate& gate : options.gates) {
    const GateResult result = Evaluate(gate, summary);
    std::cerr << result.message << "\n";
    if (!result.holds) context.exit_code = kExitCheckFailed;
  }
}

// What the answer to the first rows says about the gates.
absl::Status CheckGates(const std::vector<Gate>& gates, const ScoreSummary& summary) {
  for (const Gate& gate : gates) {
    if (absl::Status status = CheckGate(gate, summary.scores()); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Score(Context& context, const ScoreOptions& options) {
  auto client = context.Connect();
  if (!client.ok()) return client.status();
  const auto model = GetReadyModel(**client, options.model);
  if (!model.ok()) return model.status();
  const absl::StatusOr<std::string> posterior_id = CheckGates(**client, *model, options);
  if (!posterior_id.ok()) return posterior_id.status();

  const InterruptFlag interrupt;
  client::StreamOptions stream_options;
  stream_options.posterior_id = *posterior_id;
  stream_options.stop = [&interrupt] { return interrupt.raised(); };
  const auto input = RowInput::Open(options, *model, stream_options.stop);
  if (!input.ok()) return input.status();
  stream_options.first_row = (*input)->first_row();

  client::ScoreRequest request;
  request.model = options.model.name;
  request.version = model->version;
  request.ood_scores = options.ood_scores;
  request.variance_mode = ToVarianceMode(options.mode.mode);
  request.samples = options.mode.samples;
  request.seed = options.mode.seed;

  std::unique_ptr<ScoreWriter> writer;
  if (!options.to_screen()) {
    auto opened = OpenScoreWriter(FormatOf(options), options.output);
    if (!opened.ok()) return opened.status();
    writer = *std::move(opened);
  }
  ScoreSummary summary;
  client::Scores all;  // for the screen
  const auto take = [&](int64_t first_row, client::Scores scores) {
    const bool first = summary.rows() == 0;
    absl::Status taken = summary.Add(scores);
    if (first && taken.ok()) taken = CheckGates(options.gates, summary);
    if (!taken.ok()) return taken;
    if (writer) return writer->Write(first_row, scores);
    first ? all = std::move(scores), void() : JoinScores(all, scores);
    return absl::OkStatus();
  };
  absl::Status status = Stream(context, request, stream_options, **input, options, take);
  if (status.ok() && writer) status = writer->Finish();
  if (writer && writer->reader_gone()) {
    context.exit_code = kExitError;
    return absl::OkStatus();
  }
  if (!status.ok()) return status;

  Report(context, options, summary, all, stream_options.first_row);
  return absl::OkStatus();
}

void AddGate(CLI::App& verb, const std::shared_ptr<ScoreOptions>& options) {
  verb.add_option_function<std::vector<std::string>>(
          "--gate",
          [options](const std::vector<std::string>& texts) {
            for (const std::string& text : texts) {
              absl::StatusOr<Gate> gate = ParseGate(text);
              if (!gate.ok()) {
                throw CLI::ValidationError("--gate", std::string(gate.status().message()));
              }
              options->gates.push_back(*std::move(gate));
            }
          },
          "Exit with 3 unless this holds for all rows together: NAME OP NUMBER, where NAME is "
          "ood_rate (share of rows that the first score with a threshold flags), ood_rate.SCORE, "
          "mean.SCORE or max.SCORE, and OP is <, <=, > or >=; several may be given")
      ->type_name("'ood_rate<=0.05'")
      ->allow_extra_args(false);
}

}  // namespace

void AddScoreVerb(CLI::App& app, Context& context) {
  CLI::App* verb = app.add_subcommand(
      "score", "Score inputs for being out-of-distribution (higher means more so)");
  const auto options = std::make_shared<ScoreOptions>();
  AddInputOptions(*verb,
                  ".npy, .npz (array x or inputs), IDX or .csv (one example on each line, its "
                  "numbers as the model takes them; a first line of names is left out), all but "
                  ".npz also gzipped, or - for .npy or CSV from standard input",
                  *options);
  AddModeOptions(*verb, {"auto", "exact", "sampled", "last-layer"}, options->mode);
  AddChoice(*verb, "--csv-type", options->csv_type, {"float", "uint8"},
            "What the numbers of a CSV file are: network inputs or raw pixels. Needed if the model "
            "takes both");
  verb->add_option("--output", options->output,
                   "A table (default) or JSON on the screen, or scores as they come, in constant "
                   "memory: to a file that ends in .csv, .npz or .ndjson and appears when it is "
                   "complete, or to standard output (-)")
      ->type_name("table|json|FILE|-")
      ->check(CheckOutput);
  AddChoice(*verb, "--format", options->format, {"csv", "ndjson"}, "Of --output - (default csv)");
  AddGate(*verb, options);
  SetExample(
      *verb,
      "What is written, for each score NAME; what belongs to a threshold only where there\n"
      "is one:\n"
      "  .csv     row,NAME,NAME_is_ood,...  with is_ood 0 or 1\n"
      "  .ndjson  {\"row\":0,\"NAME\":1.25,\"NAME_is_ood\":false,...}  a line for each row\n"
      "  .npz     arrays row [N], NAME [N], NAME_is_ood [N] and NAME_threshold\n"
      "\n"
      "A connection that drops is taken up again where it broke off. Exit codes: 0 done and\n"
      "all gates hold, 1 error, 2 usage, 3 a gate does not hold (the output is complete).\n"
      "\n"
      "Example:\n"
      "  laplace score fashion_cnn --input new.npz --ood-score msp,variance\n"
      "  laplace score fashion_cnn --input new.npz --output scores.csv \\\n"
      "      --gate 'ood_rate<=0.05'\n"
      "  zcat new.csv.gz | laplace score fashion_cnn --input - --output - >scores.csv");
  verb->callback([&context, options] {
    if (!options->format.empty() && options->output != "-") {
      throw CLI::ValidationError("--format",
                                 "goes with --output - only; a file has its format "
                                 "from the end of its name");
    }
    context.command = [&context, options] { return Score(context, *options); };
  });
}

}  // namespace laplace::cli
