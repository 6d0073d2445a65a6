// laplace evaluate
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/batches.h"
#include "client/cli/context.h"
#include "client/cli/evaluation.h"
#include "client/cli/evaluation_report.h"
#include "client/cli/evaluation_sets.h"
#include "client/cli/input_options.h"
#include "client/cli/mode_options.h"
#include "client/cli/prediction_quality.h"
#include "client/cli/progress.h"
#include "client/cli/table.h"

namespace laplace::cli {
namespace {

constexpr char kAllScores[] = "all";

struct EvaluateOptions {
  InputOptions id;  // also the model and what holds for every file
  std::vector<std::string> ood;
  ModeOptions mode;
  int64_t replicates = 1000;
  double confidence = 0.95;
  std::string output;
  std::string scores_file;
};

// Everything that is read before the server is asked to compute.
struct Inputs {
  Examples id;
  absl::optional<Truth> truth;
  std::vector<SetFile> ood_files;
  std::vector<client::Array> ood;
};

absl::StatusOr<Inputs> ReadInputs(const EvaluateOptions& options, const client::Model& model) {
  Inputs inputs;
  absl::StatusOr<std::vector<SetFile>> files = NameSets(options.ood);
  if (!files.ok()) return files.status();
  inputs.ood_files = *std::move(files);
  absl::StatusOr<Examples> id = ReadInput(options.id, model);
  if (!id.ok()) return id.status();
  inputs.id = *std::move(id);
  if (inputs.id.targets) {
    absl::StatusOr<Truth> truth = ReadTruth(model, *inputs.id.targets);
    if (!truth.ok()) return truth.status();
    inputs.truth = *std::move(truth);
  } else if (options.ood.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.id.files.inputs,
                     ": holds no labels, and no --ood is given, so there is nothing to evaluate: "
                     "name labels as INPUTS,LABELS or add OOD data"));
  }
  for (const SetFile& file : inputs.ood_files) {
    InputOptions one;
    one.files.inputs = file.path;
    one.files.inputs_only = true;
    one.limit = options.id.limit;
    absl::StatusOr<Examples> examples = ReadInput(one, model);
    if (!examples.ok()) return examples.status();
    inputs.ood.push_back(std::move(examples->inputs));
  }
  return inputs;
}

// The calls, one for each batch of a file: all answered by one version, posterior and mode. Takes
// the inputs, which may be large, so that no set is there twice.
class Asker {
 public:
  Asker(const client::Client& client, const EvaluateOptions& options,
        std::vector<std::string> scores, Evaluation& evaluation)
      : client_(client), options_(options), scores_(std::move(scores)), evaluation_(evaluation) {}

  absl::StatusOr<client::Prediction> Predict(client::Array inputs, ScoredSet& set) {
    client::PredictRequest request;
    SetCommon(std::move(inputs), request);
    return Ask<client::Prediction>(set, "predicting", request, PredictRows);
  }

  absl::Status Score(client::Array inputs, ScoredSet& set) {
    client::ScoreRequest request;
    SetCommon(std::move(inputs), request);
    return Ask<client::Scores>(set, "scoring", request, ScoreRows).status();
  }

 private:
  template <typename Request>
  void SetCommon(client::Array inputs, Request& request) const {
    request.model = options_.id.model.name;
    request.version = evaluation_.version;
    request.inputs = std::move(inputs);
    request.ood_scores = scores_;
    request.variance_mode = evaluation_.variance_mode;
    if (options_.mode.samples > 0) request.samples = options_.mode.samples;
    // Which means something only where functions may be drawn.
    if (ModeIsOpen() || request.variance_mode == client::VarianceMode::kSampled) {
      request.seed = options_.mode.seed;
    }
  }

  template <typename Answer, typename Request, typename Rows>
  absl::StatusOr<Answer> Ask(ScoredSet& set, const char* verb, const Request& request,
                             const Rows& rows) {
    ProgressLine line(absl::StrCat(verb, " ", set.name));
    absl::StatusOr<Answer> answer =
        rows(client_, request, options_.id.batch_size, [&line](int64_t done, int64_t total) {
          line.Update(static_cast<double>(done) / total,
                      absl::StrCat(Count(done), "/", Count(total), " rows"));
        });
    if (!answer.ok()) return answer;
    if (answer->posterior_id != evaluation_.posterior_id) {
      return absl::AbortedError(absl::StrCat("posterior ", answer->posterior_id, " answered for ",
                                             set.name, ", expected ", evaluation_.posterior_id,
                                             ", which was active before; run it again"));
    }
    set.scores = answer->ood_scores;
    absl::Status status = CheckScores(scores_, set);
    if (!status.ok()) return status;
    KeepMode(*answer);
    return answer;
  }

  // The mode that answered the first file answers them all. Where only logits are needed there is
  // none, and TOP_CLASSES is none for scores.
  template <typename Answer>
  void KeepMode(const Answer& answer) {
    const client::VarianceMode ran = answer.variance_mode;
    if (ModeIsOpen() && ran != client::VarianceMode::kTopClasses) evaluation_.variance_mode = ran;
    evaluation_.samples = std::max(evaluation_.samples, answer.samples);
  }

  bool ModeIsOpen() const {
    return evaluation_.variance_mode == client::VarianceMode::kDefault ||
           evaluation_.variance_mode == client::VarianceMode::kAuto;
  }

  const client::Client& client_;
  const EvaluateOptions& options_;
  const std::vector<std::string> scores_;
  Evaluation& evaluation_;
};

std::vector<QualityEvaluation> EvaluateQuality(const client::Model& model,
                                               const client::Prediction& prediction,
                                               const Truth& truth,
                                               const BootstrapOptions& bootstrap) {
  std::vector<QualityEvaluation> quality;
  const auto add = [&](const std::vector<ExampleMetric>& metrics, Estimate QualityEvaluation::*to) {
    const std::vector<Estimate> estimates = EstimateMetrics(metrics, bootstrap);
    for (size_t m = 0; m < metrics.size(); ++m) {
      auto row = std::find_if(quality.begin(), quality.end(),
                              [&](const auto& q) { return q.metric == metrics[m].name; });
      if (row == quality.end()) {
        row = quality.insert(row, {metrics[m].name, Undefined(), Undefined()});
      }
      (*row).*to = estimates[m];
    }
  };
  add(PlainNetworkMetrics(model, prediction, truth), &QualityEvaluation::plain_network);
  add(LaplaceMetrics(model, prediction, truth), &QualityEvaluation::laplace);
  return quality;
}

void PrintEvaluation(const Context& context, const EvaluateOptions& options,
                     const Evaluation& evaluation) {
  if (options.output == "json" || (options.output.empty() && context.json)) {
    Print(ToJson(evaluation));
  } else {
    Print(EvaluationText(evaluation,
                         options.output == "markdown" ? TextForm::kMarkdown : TextForm::kTable));
  }
}

absl::Status Evaluate(const Context& context, const EvaluateOptions& options) {
  auto client = context.Connect();
  if (!client.ok()) return client.status();
  const auto model = GetReadyModel(**client, options.id.model);
  if (!model.ok()) return model.status();
  absl::StatusOr<Inputs> inputs = ReadInputs(options, *model);
  if (!inputs.ok()) return inputs.status();
  const auto posterior = (*client)->GetPosterior(model->name, model->version);
  if (!posterior.ok()) return posterior.status();

  Evaluation evaluation;
  evaluation.model = model->name;
  evaluation.version = model->version;
  evaluation.posterior_id = posterior->id;
  evaluation.likelihood = model->likelihood;
  evaluation.variance_mode = ToVarianceMode(options.mode.mode);
  evaluation.bootstrap.replicates = options.replicates;
  evaluation.bootstrap.confidence = options.confidence;
  evaluation.bootstrap.seed = options.mode.seed;
  evaluation.id = {kIdSet, options.id.files.inputs, inputs->id.inputs.rows(), {}};

  const bool all = options.id.ood_scores == std::vector<std::string>{kAllScores};
  Asker asker(**client, options,
              all ? AvailableScores(*posterior, evaluation.variance_mode) : options.id.ood_scores,
              evaluation);
  client::Prediction prediction;
  if (inputs->truth) {
    absl::StatusOr<client::Prediction> answer =
        asker.Predict(std::move(inputs->id.inputs), evaluation.id);
    if (!answer.ok()) return answer.status();
    prediction = *std::move(answer);
  } else if (absl::Status status = asker.Score(std::move(inputs->id.inputs), evaluation.id);
             !status.ok()) {
    return status;
  }
  for (size_t t = 0; t < inputs->ood.size(); ++t) {
    const SetFile& file = inputs->ood_files[t];
    ScoredSet set = {file.name, file.path, inputs->ood[t].rows(), {}};
    const absl::Status status = asker.Score(std::move(inputs->ood[t]), set);
    if (!status.ok()) return status;
    evaluation.ood.push_back(std::move(set));
  }
  if (!options.scores_file.empty()) {
    const absl::Status status = WriteScores(options.scores_file, evaluation.id, evaluation.ood);
    if (!status.ok()) return status;
  }
  if (inputs->truth) {
    evaluation.quality = EvaluateQuality(*model, prediction, *inputs->truth, evaluation.bootstrap);
  }
  {
    ProgressLine line("resampling");
    evaluation.scores =
        EvaluateScores(evaluation.id, evaluation.ood, *posterior, evaluation.bootstrap,
                       [&line](double fraction) { line.Update(fraction, ""); });
  }
  PrintEvaluation(context, options, evaluation);
  return absl::OkStatus();
}

CLI::Validator Between(double low, double high) {
  return CLI::Validator(
      [low, high](std::string& text) {
        double value = 0;
        if (CLI::detail::lexical_cast(text, value) && value > low && value < high) {
          return std::string();
        }
        return absl::StrCat("expected a number above ", low, " and below ", high, ", got ", text);
      },
      "");
}

constexpr char kFooter[] =
    "Reported on --id with labels, for the plain network and for the posterior predictive:\n"
    "  categorical  accuracy, NLL (nats), ECE (15 bins), Brier score (sum over classes)\n"
    "  bernoulli    accuracy of single labels and of all labels of a row; NLL, ECE and Brier "
    "score\n"
    "               of single labels, averaged over the labels\n"
    "  gaussian     RMSE, NLL of the Gaussian predictive, coverage of its 95 % interval\n"
    "Reported for each score and OOD set: AUROC; AUPR with ID and with OOD as positive (average\n"
    "precision); FPR@95 with OOD as positive (OpenOOD: ID flagged where 95 % of OOD are caught) "
    "and\n"
    "with ID as positive (ODIN, Hendrycks: OOD accepted where 95 % of ID are accepted); with a\n"
    "threshold, the share flagged.\n"
    "\n"
    "Example:\n"
    "  laplace evaluate fashion_cnn --id test.npz --ood digits=mnist.npz --ood noise.npz";

}  // namespace

void AddEvaluateVerb(CLI::App& app, Context& context) {
  CLI::App* verb = app.add_subcommand(
      "evaluate", "Measure predictions and OOD scores on labelled and on out-of-distribution data");
  const auto options = std::make_shared<EvaluateOptions>();
  options->id.batch_size = kDefaultBatchSize;
  options->id.ood_scores = {kAllScores};
  AddModelArgument(*verb, options->id.model);
  verb->add_option("--id", options->id.files.inputs,
                   "In-distribution data that nothing was fitted or calibrated on: .npy, .npz (x "
                   "and, if there are labels, y) or IDX, plain or gzipped")
      ->type_name("FILE|INPUTS,LABELS")
      ->required();
  verb->add_option(
          "--ood", options->ood,
          "Out-of-distribution data, likewise, without labels; may be given several times. "
          "A set without a name is called after its file")
      ->type_name("[NAME=]FILE")
      ->allow_extra_args(false);
  verb->add_option("--ood-score", options->id.ood_scores,
                   "OOD scores to judge (default all that the posterior has)")
      ->type_name("NAME[,NAME...]|all")
      ->delimiter(',');
  verb->add_option("--limit", options->id.limit,
                   "At most this many rows of each file (default all)")
      ->type_name("N")
      ->check(Positive());
  verb->add_option("--batch-size", options->id.batch_size, "Rows in one call (default 250)")
      ->type_name("N")
      ->check(Positive());
  AddModeOptions(*verb, {"auto", "exact", "sampled", "last-layer"}, options->mode);
  verb->get_option("--seed")->description(
      "Seed of the resamples, and of the functions that --mode sampled draws (default 0)");
  verb->add_option("--bootstrap", options->replicates,
                   "Resamples behind the intervals, 0 for no intervals (default 1000)")
      ->type_name("N")
      ->check(Between(-1, 100001));
  verb->add_option("--confidence", options->confidence, "Of the intervals (default 0.95)")
      ->type_name("X")
      ->check(Between(0, 1));
  AddChoice(*verb, "--output", options->output, {"table", "json", "markdown"},
            "How to print results (default table)");
  verb->add_option("--scores", options->scores_file,
                   "Also write the scores of every example: arrays <set>/<score>; the ID data are "
                   "the set id")
      ->type_name("FILE.npz");
  SetExample(*verb, kFooter);
  verb->callback([&context, options] {
    context.command = [&context, options] { return Evaluate(context, *options); };
  });
}

}  // namespace laplace::cli
