// laplace fit
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/context.h"
#include "client/cli/fit_options.h"
#include "client/cli/follow.h"
#include "client/cli/json_output.h"
#include "client/cli/training_data.h"

namespace laplace::cli {
namespace {

using client::Model;
using client::Posterior;

struct FitArguments {
  ModelName model;
  ExampleFiles train;
  ExampleFiles validation;
  client::FitOptions options;
  bool keep_inactive = false;
  bool reuse = false;
  bool no_wait = false;
};

// Whether the active posterior is what `request` would make of the model's checkpoint.
bool IsActive(const client::Client& client, const Model& model, const client::FitRequest& request) {
  if (model.active_posterior_id.empty()) return false;
  const absl::StatusOr<Posterior> active = client.GetPosterior(model.name, model.version);
  return active.ok() && active->checkpoint_sha256 == model.checkpoint_sha256 &&
         active->train_dataset_id == request.train_dataset_id &&
         active->validation_dataset_id == request.validation_dataset_id &&
         active->parent_posterior_id.empty() && SameOptions(request.options, active->options);
}

absl::Status PrintReused(const Context& context, const client::Client& client, const Model& model) {
  if (context.json) return PrintPosterior(context, client, model, model.active_posterior_id);
  Print(absl::StrCat("posterior ", model.active_posterior_id,
                     " is active and was fitted on the same checkpoint and data\n"));
  return absl::OkStatus();
}

absl::Status StartOnly(const Context& context, const client::Client& client,
                       const client::FitRequest& request) {
  const absl::StatusOr<client::Operation> operation = client.StartFit(request);
  if (!operation.ok()) return ExplainRefusal(client, operation.status());
  if (context.json) {
    Print(ToJson(*operation));
  } else {
    Print(absl::StrCat("started; follow it with: laplace operations watch ", operation->id, "\n"));
  }
  return absl::OkStatus();
}

absl::Status Fit(const Context& context, const FitArguments& arguments) {
  auto client = context.Connect();
  if (!client.ok()) return client.status();
  const auto model = GetReadyModel(**client, arguments.model);
  if (!model.ok()) return model.status();
  const absl::StatusOr<PreparedData> train = PrepareData(arguments.train, *model, "--train-labels");
  if (!train.ok()) return train.status();
  absl::optional<PreparedData> validation;
  if (!arguments.validation.inputs.empty()) {
    absl::StatusOr<PreparedData> prepared =
        PrepareData(arguments.validation, *model, "--validation-labels");
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
  if (arguments.reuse && IsActive(**client, *model, request)) {
    return PrintReused(context, **client, *model);
  }

  absl::Status status = SendData(**client, *train, "training data");
  if (status.ok() && validation) status = SendData(**client, *validation, "validation data");
  if (!status.ok()) return status;
  if (arguments.no_wait) return StartOnly(context, **client, request);
  const absl::StatusOr<std::string> id = Follow(
      **client, "fitting",
      [&](const client::OperationProgress& progress) { return (*client)->Fit(request, progress); });
  if (!id.ok()) return id.status();
  return PrintPosterior(context, **client, *model, *id);
}

}  // namespace

void AddFitVerb(CLI::App& app, Context& context) {
  CLI::App* verb =
      app.add_subcommand("fit", "Fit a Laplace posterior on training data, and activate it");
  const auto arguments = std::make_shared<FitArguments>();
  AddModelArgument(*verb, arguments->model);
  AddDataOptions(*verb, "--train", "--train-labels", "Training data", /*required=*/true,
                 arguments->train);
  AddDataOptions(*verb, "--validation", "--validation-labels",
                 "Held-out data, which tunes the prior and the OOD thresholds", /*required=*/false,
                 arguments->validation);
  AddFitOptions(*verb, arguments->options);
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
             "  laplace fit fashion_cnn --train train.npz --structure kfac --parameters 'head.*'\n"
             "\n"
             "Ctrl-C, SIGTERM or SIGHUP cancels the fit; a second one leaves at once.");
  verb->callback([&context, arguments] {
    context.command = [&context, arguments] { return Fit(context, *arguments); };
  });
}

}  // namespace laplace::cli
