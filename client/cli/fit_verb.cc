// laplace fit
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "client/cli/context.h"
#include "client/cli/examples.h"
#include "client/cli/input_options.h"
#include "client/cli/json_output.h"
#include "client/cli/posterior_report.h"
#include "client/cli/progress.h"
#include "client/cli/table.h"

namespace laplace::cli {
namespace {

using client::Model;
using client::Posterior;

struct FitArguments {
  ModelName model;
  ExampleFiles train;
  ExampleFiles validation;
  std::string debiasing;
  std::string residual;
  client::FitOptions options;
  bool keep_inactive = false;
  bool reuse = false;
  bool no_wait = false;
};

// Rows that are ready to be sent, and the id they will have.
struct PreparedData {
  Examples examples;
  std::string id;
};

absl::StatusOr<PreparedData> Prepare(const ExampleFiles& files, const Model& model,
                                     const char* targets_flag) {
  absl::StatusOr<Examples> examples = ReadExamples(files);
  if (!examples.ok()) return examples.status();
  if (!examples->targets) {
    return absl::InvalidArgumentError(absl::StrCat(
        files.inputs, ": holds no array y, targets or labels; name a file with ", targets_flag));
  }
  const absl::Status status = ShapeForModel(model, files.inputs, examples->inputs);
  if (!status.ok()) return status;
  ShapeTargetsForModel(model, *examples->targets);
  absl::StatusOr<std::string> id = client::Client::DatasetId(examples->inputs, *examples->targets);
  if (!id.ok()) return id.status();
  return PreparedData{*std::move(examples), *std::move(id)};
}

absl::Status Send(const client::Client& client, const PreparedData& data, const std::string& what) {
  ProgressLine line(absl::StrCat("sending ", what));
  return client
      .EnsureDataset(data.examples.inputs, *data.examples.targets,
                     [&line](int64_t done, int64_t total) {
                       line.Update(static_cast<double>(done) / total,
                                   absl::StrCat(Count(done), "/", Count(total), " rows"));
                     })
      .status();
}

// Whether every option that was given on the command line is what the posterior was fitted with.
bool SameOptions(const client::FitOptions& asked, const client::FitOptions& used) {
  const auto same = [](auto asked_value, auto used_value) {
    return asked_value == decltype(asked_value){} || asked_value == used_value;
  };
  return same(asked.rank, used.rank) &&
         same(asked.direction_batch_size, used.direction_batch_size) &&
         same(asked.curvature_batch_size, used.curvature_batch_size) &&
         same(asked.debiasing, used.debiasing) && same(asked.residual, used.residual) &&
         asked.seed == used.seed &&
         (!asked.prior_precision || asked.prior_precision == used.prior_precision) &&
         (!asked.ood_prior_precision || asked.ood_prior_precision == used.ood_prior_precision) &&
         same(asked.lanczos_tolerance, used.lanczos_tolerance) &&
         same(asked.max_products, used.max_products) &&
         same(asked.target_id_rate, used.target_id_rate) &&
         same(asked.max_validation_examples, used.max_validation_examples);
}

absl::Status PrintResult(const Context& context, const client::Client& client, const Model& model,
                         const std::string& id, bool reused) {
  const absl::StatusOr<Posterior> posterior = client.GetPosterior(model.name, model.version, id);
  if (!posterior.ok()) return posterior.status();
  if (context.json) {
    Print(ToJson(*posterior));
    return absl::OkStatus();
  }
  if (reused) {
    Print(absl::StrCat("posterior ", id,
                       " is active and was fitted on the same checkpoint and data\n"));
    return absl::OkStatus();
  }
  Print(absl::StrCat(PosteriorSummary(*posterior), "\n", SpectrumTable(*posterior, 5)));
  return absl::OkStatus();
}

// A refusal to start a fit, with the fits that stand in its way and what can be done about them.
absl::Status ExplainRefusal(const client::Client& client, const absl::Status& refusal) {
  if (!absl::IsResourceExhausted(refusal)) return refusal;
  const auto operations = client.ListOperations();
  if (!operations.ok()) return refusal;
  std::string message(refusal.message());
  for (const client::Operation& operation : *operations) {
    if (operation.finished()) continue;
    absl::StrAppend(&message, "; running: ", operation.id, " (", operation.description, ", ",
                    Percent(operation.fraction), " done), watch it with: laplace operations watch ",
                    operation.id, ", or cancel it with: laplace operations cancel ", operation.id);
  }
  absl::Status status(refusal.code(), message);
  refusal.ForEachPayload([&status](absl::string_view url, const absl::Cord& payload) {
    status.SetPayload(url, payload);
  });
  return status;
}

absl::StatusOr<std::string> Follow(const client::Client& client,
                                   const client::FitRequest& request) {
  const InterruptFlag interrupt;
  bool started = false;
  absl::StatusOr<std::string> id;
  {
    ProgressLine line("fitting");
    id = client.Fit(request, [&](const client::Operation& operation) {
      started = true;
      line.Update(operation);
      return !interrupt.raised();
    });
  }
  if (!id.ok() && !started) return ExplainRefusal(client, id.status());
  return id;
}

absl::Status Fit(const Context& context, const FitArguments& arguments) {
  auto client = context.Connect();
  if (!client.ok()) return client.status();
  const auto model = GetReadyModel(**client, arguments.model);
  if (!model.ok()) return model.status();
  const absl::StatusOr<PreparedData> train = Prepare(arguments.train, *model, "--train-labels");
  if (!train.ok()) return train.status();
  absl::optional<PreparedData> validation;
  if (!arguments.validation.inputs.empty()) {
    absl::StatusOr<PreparedData> prepared =
        Prepare(arguments.validation, *model, "--validation-labels");
    if (!prepared.ok()) return prepared.status();
    validation = *std::move(prepared);
  }

  client::FitRequest request;
  request.model = model->name;
  request.version = model->version;
  request.train_dataset_id = train->id;
  if (validation) request.validation_dataset_id = validation->id;
  request.options = arguments.options;
  request.keep_inactive = arguments.keep_inactive;

  if (arguments.reuse && !model->active_posterior_id.empty()) {
    const absl::StatusOr<Posterior> active = (*client)->GetPosterior(model->name, model->version);
    if (active.ok() && active->checkpoint_sha256 == model->checkpoint_sha256 &&
        active->train_dataset_id == request.train_dataset_id &&
        active->validation_dataset_id == request.validation_dataset_id &&
        SameOptions(request.options, active->options)) {
      return PrintResult(context, **client, *model, active->id, /*reused=*/true);
    }
  }

  absl::Status status = Send(**client, *train, "training data");
  if (status.ok() && validation) status = Send(**client, *validation, "validation data");
  if (!status.ok()) return status;
  if (arguments.no_wait) {
    const absl::StatusOr<client::Operation> operation = (*client)->StartFit(request);
    if (!operation.ok()) return ExplainRefusal(**client, operation.status());
    if (context.json) {
      Print(ToJson(*operation));
    } else {
      Print(
          absl::StrCat("started; follow it with: laplace operations watch ", operation->id, "\n"));
    }
    return absl::OkStatus();
  }
  const absl::StatusOr<std::string> id = Follow(**client, request);
  if (!id.ok()) return id.status();
  return PrintResult(context, **client, *model, *id, /*reused=*/false);
}

void AddDataOptions(CLI::App& app, const std::string& name, const std::string& what,
                    ExampleFiles& files, bool required) {
  const std::string flag = "--" + name;
  CLI::Option* inputs =
      app.add_option(
             flag, files.inputs,
             absl::StrCat(what, ": .npz with x and y, or a file of inputs (.npy, .npz, IDX) ",
                          "and one of labels"))
          ->type_name("FILE[,FILE]")
          ->required(required);
  app.add_option(flag + "-labels", files.targets, absl::StrCat("Labels or targets for ", flag))
      ->type_name("FILE")
      ->needs(inputs);
  AddRows(app, flag + "-rows", files.rows,
          absl::StrCat("Only these rows of ", flag, ", END excluded"))
      ->needs(inputs);
}

void AddCurvatureOptions(CLI::App& app, FitArguments& arguments) {
  client::FitOptions& options = arguments.options;
  app.add_option("--rank", options.rank, "Directions of the posterior, K (default 50)")
      ->type_name("K");
  app.add_option("--b1", options.direction_batch_size,
                 "Examples that choose the directions (default 1024)")
      ->type_name("N");
  app.add_option("--b2", options.curvature_batch_size,
                 "Other examples that measure curvature along them (default 4096)")
      ->type_name("N");
  AddChoice(app, "--debiasing", arguments.debiasing, {"two-batch", "none"},
            "Measure curvature on other examples than those that chose the directions (default "
            "two-batch)");
  AddChoice(app, "--residual", arguments.residual, {"isotropic", "none"},
            "Curvature assumed outside the directions (default isotropic)");
  app.add_option_function<double>(
         "--prior-precision", [&options](double value) { options.prior_precision = value; },
         "Prior precision (default: tuned on the validation data)")
      ->type_name("X");
  app.add_option_function<double>(
         "--ood-prior-precision", [&options](double value) { options.ood_prior_precision = value; },
         "Prior precision for OOD scores (default: from the model's weight decay)")
      ->type_name("X");
  app.add_option("--seed", options.seed, "Chooses the examples and the start vector (default 0)")
      ->type_name("S");
  app.add_option("--tolerance", options.lanczos_tolerance,
                 "Largest residual of a direction, relative to the top curvature (default 0.001)")
      ->type_name("X");
  app.add_option("--max-products", options.max_products,
                 "At most this many curvature products (default 10 K)")
      ->type_name("N");
  app.add_option("--target-id-rate", options.target_id_rate,
                 "Share of validation data that OOD thresholds aim to flag (default 0.05)")
      ->type_name("X");
  app.add_option("--max-validation", options.max_validation_examples,
                 "Use at most this many validation examples (default all)")
      ->type_name("N");
}

}  // namespace

void AddFitVerb(CLI::App& app, Context& context) {
  CLI::App* verb =
      app.add_subcommand("fit", "Fit a Laplace posterior on training data, and activate it");
  const auto arguments = std::make_shared<FitArguments>();
  AddModelArgument(*verb, arguments->model);
  AddDataOptions(*verb, "train", "Training data", arguments->train, /*required=*/true);
  AddDataOptions(*verb, "validation", "Held-out data, which tunes the prior and the OOD thresholds",
                 arguments->validation, /*required=*/false);
  AddCurvatureOptions(*verb, *arguments);
  verb->add_flag("--keep-inactive", arguments->keep_inactive,
                 "Leave the active posterior as it is");
  verb->add_flag("--reuse", arguments->reuse,
                 "Do nothing if the active posterior was fitted on this checkpoint and data, with "
                 "this seed and the options given here");
  verb->add_flag("--no-wait", arguments->no_wait, "Start the fit and return at once");
  SetExample(*verb,
             "Example:\n"
             "  laplace fit fashion_cnn \\\n"
             "      --train train-images-idx3-ubyte.gz,train-labels-idx1-ubyte.gz \\\n"
             "      --train-rows 0:50000 \\\n"
             "      --validation train-images-idx3-ubyte.gz,train-labels-idx1-ubyte.gz \\\n"
             "      --validation-rows 50000:60000\n"
             "\n"
             "Ctrl-C, SIGTERM or SIGHUP cancels the fit; a second one leaves at once.");
  verb->callback([&context, arguments] {
    if (arguments->debiasing == "none") arguments->options.debiasing = client::Debiasing::kNone;
    if (arguments->debiasing == "two-batch") {
      arguments->options.debiasing = client::Debiasing::kTwoBatch;
    }
    if (arguments->residual == "none") arguments->options.residual = client::Residual::kNone;
    if (arguments->residual == "isotropic") {
      arguments->options.residual = client::Residual::kIsotropic;
    }
    context.command = [&context, arguments] { return Fit(context, *arguments); };
  });
}

}  // namespace laplace::cli
