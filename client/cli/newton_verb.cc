// laplace newton-step
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/context.h"
#include "client/cli/fit_options.h"
#include "client/cli/fit_words.h"
#include "client/cli/follow.h"
#include "client/cli/json_output.h"
#include "client/cli/training_data.h"

namespace laplace::cli {
namespace {

constexpr ChoiceWord<client::NewtonVariant> kVariants[] = {
    {client::NewtonVariant::kDebiased, "debiased"},
    {client::NewtonVariant::kSingle, "single"},
    {client::NewtonVariant::kEqualBudget, "equal-budget"},
    {client::NewtonVariant::kOracle, "oracle"}};
constexpr ChoiceWord<client::Curvature> kCurvatures[] = {{client::Curvature::kGgn, "ggn"},
                                                         {client::Curvature::kHessian, "hessian"}};

struct NewtonArguments {
  ModelName model;
  ExampleFiles train;
  ExampleFiles held_out;
  client::NewtonRequest request;
};

absl::Status Step(const Context& context, const NewtonArguments& arguments) {
  auto client = context.Connect();
  if (!client.ok()) return client.status();
  const auto model = GetReadyModel(**client, arguments.model);
  if (!model.ok()) return model.status();
  const absl::StatusOr<PreparedData> train = PrepareData(arguments.train, *model, "--train-labels");
  if (!train.ok()) return train.status();
  client::NewtonRequest request = arguments.request;
  request.model = model->name;
  request.version = model->version;
  request.train_dataset_id = train->id;
  absl::Status sent = SendData(**client, *train, "training data");
  if (sent.ok() && !arguments.held_out.inputs.empty()) {
    const absl::StatusOr<PreparedData> held_out =
        PrepareData(arguments.held_out, *model, "--held-out-labels");
    if (!held_out.ok()) return held_out.status();
    request.held_out_dataset_id = held_out->id;
    sent = SendData(**client, *held_out, "held-out data");
  }
  if (!sent.ok()) return sent;
  client::Operation made;
  const absl::StatusOr<std::string> result =
      Follow(**client, "stepping",
             [&](const client::OperationProgress& progress) -> absl::StatusOr<std::string> {
               absl::StatusOr<client::Operation> last = (*client)->NewtonStep(request, progress);
               if (!last.ok()) return last.status();
               made = *std::move(last);
               return made.result;
             });
  if (!result.ok()) return result.status();
  if (context.json) {
    Print(ToJson(made));
  } else {
    const std::string name = VersionedName(model->name, made.model_version);
    Print(absl::StrCat("wrote ", name, ": ", *result, "\n",
                       "fit its posterior with: laplace models load ", name, " && laplace fit ",
                       name, " ...\n"));
  }
  return absl::OkStatus();
}

void AddStepOptions(CLI::App& app, client::NewtonRequest& request) {
  AddEnum(app, "--variant", kVariants, request.variant,
          "What says how far to go: an independent batch (default), the batch that chose the "
          "directions, both batches as one, or all training data");
  AddEnum(app, "--curvature", kCurvatures, request.curvature,
          "Which curvature of the training loss (default ggn)");
  const auto number = [&](const std::string& flag, auto& value, const std::string& description) {
    app.add_option(flag, value, description)->type_name("N");
  };
  number("--b1", request.direction_batch_size,
         "Examples that choose the directions (default 1024)");
  number("--b2", request.curvature_batch_size, "Other examples that say how far (default 4096)");
  number("--held-out-size", request.held_out_size,
         "Training examples that are held out, without --held-out (default 2048)");
  number("--steps", request.max_steps,
         "At most this many steps of conjugate gradients (default 20)");
  app.add_option_function<double>(
         "--damping", [&request](double x) { request.damping = x; },
         "Added to the curvature in every direction (default 0.001)")
      ->type_name("X");
  app.add_option("--tolerance", request.tolerance,
                 "Relative residual at which conjugate gradients end earlier (default 0.0001)")
      ->type_name("X");
  number("--seed", request.seed, "Chooses the examples (default 0)");
  app.add_flag("--keep-worse", request.keep_worse,
               "Write the new version although the held-out loss does not fall");
}

}  // namespace

void AddNewtonStepVerb(CLI::App& app, Context& context) {
  CLI::App* verb = app.add_subcommand(
      "newton-step",
      "Move a checkpoint closer to its mode, as a new version of the model, if held-out examples "
      "agree that it gets better");
  const auto arguments = std::make_shared<NewtonArguments>();
  AddModelArgument(*verb, arguments->model);
  AddDataOptions(*verb, "--train", "--train-labels", "Training data", /*required=*/true,
                 arguments->train);
  AddDataOptions(*verb, "--held-out", "--held-out-labels",
                 "Examples to choose and judge the step on, none of them in --train",
                 /*required=*/false, arguments->held_out);
  AddStepOptions(*verb, arguments->request);
  SetExample(*verb,
             "Example:\n"
             "  laplace newton-step fashion_cnn --train train.npz\n"
             "\n"
             "Exits with 1, and nothing is written, if the held-out loss would not fall.\n"
             "Ctrl-C, SIGTERM or SIGHUP cancels the step; a second one leaves at once.");
  verb->callback([&context, arguments] {
    context.command = [&context, arguments] { return Step(context, *arguments); };
  });
}

}  // namespace laplace::cli
