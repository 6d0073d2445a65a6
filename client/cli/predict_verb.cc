// laplace predict
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
#include "client/cli/mode_options.h"
#include "client/cli/prediction_report.h"
#include "client/cli/progress.h"
#include "client/cli/table.h"

namespace laplace::cli {
namespace {

using client::Model;
using client::Prediction;

struct PredictOptions {
  InputOptions input;
  ModeOptions mode;
  int32_t top_classes = 0;
  std::string link;
  absl::optional<double> prior_precision;
  absl::optional<double> temperature;
  bool joint_covariance = false;
  int32_t function_samples = 0;
};

client::LinkApprox ToLink(const std::string& name) {
  if (name == "probit") return client::LinkApprox::kProbit;
  if (name == "mc") return client::LinkApprox::kMonteCarlo;
  if (name == "laplace-bridge") return client::LinkApprox::kLaplaceBridge;
  if (name == "mean-field") return client::LinkApprox::kMeanField;
  return client::LinkApprox::kDefault;
}

Json Metrics(const std::vector<float>& probabilities, int64_t classes,
             const std::vector<int64_t>& labels) {
  return {{"accuracy", Accuracy(probabilities, classes, labels)},
          {"nll", NegativeLogLikelihood(probabilities, classes, labels)},
          {"ece", ExpectedCalibrationError(probabilities, classes, labels)}};
}

// Accuracy, NLL and calibration error need one true class for each row.
bool HasMetrics(const Model& model) { return model.likelihood == client::Likelihood::kCategorical; }

std::string NoMetrics(const Model& model) {
  return absl::StrCat("accuracy, NLL and ECE are for categorical models, and model ", model.name,
                      " is ", LikelihoodName(model.likelihood));
}

absl::Status PrintPrediction(const Context& context, const PredictOptions& options,
                             const Model& model, const Prediction& prediction,
                             const absl::optional<client::Array>& targets) {
  const int64_t first_row = options.input.files.rows.begin;
  const int64_t parts = prediction.batch * (HasMetrics(model) ? 1 : prediction.outputs);
  if (static_cast<int64_t>(prediction.epistemic.size()) != parts) {
    return absl::InternalError(absl::StrCat(
        "the server's answer is malformed: epistemic: expected ", parts, " values from a ",
        LikelihoodName(model.likelihood), " model, got ", prediction.epistemic.size()));
  }
  std::vector<int64_t> labels;
  if (HasMetrics(model) && targets) {
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
  Print(PredictionTable(model, prediction, labels, first_row));
  Print(VarianceNote(prediction));
  if (!labels.empty()) Print("\n" + MetricsTable(map, laplace));
  if (targets && !HasMetrics(model)) {
    Print(absl::StrCat("\nnote: the labels of the input file are not used: ", NoMetrics(model),
                       "\n"));
  }
  return absl::OkStatus();
}

absl::Status Predict(const Context& context, const PredictOptions& options) {
  auto client = context.Connect();
  if (!client.ok()) return client.status();
  const auto model = GetReadyModel(**client, options.input.model);
  if (!model.ok()) return model.status();
  if (!options.input.files.targets.empty() && !HasMetrics(*model)) {
    return absl::InvalidArgumentError(absl::StrCat("--labels: ", NoMetrics(*model)));
  }
  if (!context.json && (options.joint_covariance || options.function_samples > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.joint_covariance ? "--joint-covariance" : "--function-samples",
                     ": a table has no room for it: add --output json"));
  }
  absl::StatusOr<Examples> examples = ReadInput(options.input, *model);
  if (!examples.ok()) return examples.status();

  client::PredictRequest request;
  request.model = options.input.model.name;
  request.version = options.input.model.version;
  request.inputs = std::move(examples->inputs);
  request.prior_precision = options.prior_precision;
  request.ood_scores = options.input.ood_scores;
  request.link_approx = ToLink(options.link);
  request.variance_mode = ToVarianceMode(options.mode.mode);
  request.top_classes = options.top_classes;
  request.samples = options.mode.samples;
  request.seed = options.mode.seed;
  request.temperature = options.temperature;
  request.return_joint_covariance = options.joint_covariance;
  request.return_samples = options.function_samples;
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
  AddInputOptions(*verb, ".npy, .npz (array x or inputs) or IDX, plain or gzipped", options->input);
  verb->add_option("--labels", options->input.files.targets,
                   "True classes, for categorical models: .npy, .npz (array y, targets or labels) "
                   "or IDX (default: from the input file, if it has them)")
      ->type_name("FILE");
  AddChoice(*verb, "--link", options->link, {"probit", "mc", "laplace-bridge", "mean-field"},
            "How Gaussian outputs become probabilities (default probit)");
  verb->add_option_function<double>(
          "--prior-precision", [options](double value) { options->prior_precision = value; },
          "Prior precision for this request only (default the posterior's)")
      ->type_name("X");
  verb->add_option_function<double>(
          "--temperature", [options](double value) { options->temperature = value; },
          "Temperature of the likelihood for this request only (default the posterior's)")
      ->type_name("X");
  AddModeOptions(*verb, {"auto", "exact", "top-classes", "sampled", "last-layer"}, options->mode);
  verb->add_option("--top-classes", options->top_classes,
                   "Classes of each row that have a variance with --mode top-classes (default 16)")
      ->type_name("N")
      ->check(Positive());
  verb->add_flag("--joint-covariance", options->joint_covariance,
                 "Add the covariance across all rows and outputs; one call, JSON only");
  verb->add_option("--function-samples", options->function_samples,
                   "Add the outputs of N functions drawn from the posterior; JSON only")
      ->type_name("N")
      ->check(Positive());
  SetExample(*verb,
             "Example:\n"
             "  laplace predict fashion_cnn --input t10k-images-idx3-ubyte.gz \\\n"
             "      --labels t10k-labels-idx1-ubyte.gz --limit 20");
  verb->callback([&context, options] {
    context.command = [&context, options] { return Predict(context, *options); };
  });
}

}  // namespace laplace::cli
