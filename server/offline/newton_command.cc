#include "server/offline/newton_command.h"

#include <CLI/CLI.hpp>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/linalg/status_macros.h"
#include "server/offline/data_flags.h"

namespace laplaced {
namespace {

constexpr char kName[] = "newton-step";

constexpr char kDescription[] =
    "Moves a checkpoint closer to the minimum of its training objective (mean loss and weight "
    "decay) "
    "by a Newton step, and writes it as a new version of the model if examples that had no part in "
    "it agree that it got better.";

constexpr char kFooter[] =
    "Conjugate gradients choose directions on one batch; how far to go along them is measured on\n"
    "another (debiased). How many of them to take is chosen on half of the held-out examples, and\n"
    "the other half says whether the loss falls; if not, nothing is written. Fit a posterior of "
    "the\n"
    "new version afterwards: those of the old one do not belong to it. The numbers of every step "
    "are\n"
    "kept in newton_step.json beside the new model.pt.\n"
    "\n"
    "Exit status: 0 a new version was written, 1 failed, stopped by a signal or not better, 2 bad\n"
    "flags, 128 + N: a second signal N.\n"
    "\n"
    "Example:\n"
    "  laplace-fit newton-step --registry /srv/registry resnet20 --train train.npz\n"
    "  laplace-fit --registry /srv/registry resnet20 --train train.npz --validation val.npz";

void AddFlags(CLI::App& app, NewtonRequest& r) {
  const std::string group = "Step";
  const auto number = [&](const std::string& flag, auto& value, const std::string& description) {
    app.add_option(flag, value, description)->type_name("N")->group(group);
  };
  AddWord(app, "--variant", r.variant, {"debiased", "single", "equal-budget", "oracle"},
          "What says how far to go: an independent batch (debiased, the default), the batch that "
          "chose the directions (single), both batches as one (equal-budget), or all training data "
          "(oracle)",
          group);
  AddWord(app, "--curvature", r.curvature, {"ggn", "hessian"},
          "Which curvature of the loss (default ggn)", group);
  number("--b1", r.direction_batch_size, "Examples that choose the directions (default 1024)");
  number("--b2", r.curvature_batch_size, "Other examples that say how far (default 4096)");
  number("--held-out-size", r.held_out_size,
         "Training examples that are held out, without --held-out (default 2048)");
  number("--steps", r.max_steps, "At most this many steps of conjugate gradients (default 20)");
  app.add_option_function<double>(
         "--damping", [&r](double x) { r.damping = x; },
         "Added to the curvature in every direction (default 0.001)")
      ->type_name("X")
      ->group(group);
  app.add_option("--tolerance", r.tolerance,
                 "Relative residual at which conjugate gradients end earlier (default 0.0001)")
      ->type_name("X")
      ->group(group);
  number("--seed", r.seed, "Chooses the examples (default 0)");
  app.add_flag("--keep-worse", r.keep_worse,
               "Write the new version although the held-out loss does not fall")
      ->group(group);
}

}  // namespace

bool IsNewtonCommand(int argc, const char* const* argv) {
  return argc > 1 && std::string_view(argv[1]) == kName;
}

absl::StatusOr<ParsedNewtonCommand> ParseNewtonCommand(int argc, const char* const* argv) {
  CLI::App app(kDescription, absl::StrCat("laplace-fit ", kName));
  app.footer(kFooter);
  app.get_formatter()->column_width(32);
  NewtonCommand command;
  std::string model;
  DataFlags training, held_out;
  app.add_option("MODEL", model, "Model to improve, by default its highest version")
      ->type_name("NAME[/VERSION]")
      ->required();
  app.add_option("--registry", command.registry, "Folder with models and data sets")
      ->type_name("DIR")
      ->required();
  AddDataFlags(app, "--train", "Training data", /*required=*/true, training);
  AddDataFlags(app, "--held-out", "Examples to choose and judge the step on, not in --train",
               /*required=*/false, held_out);
  app.add_option("--compute-threads", command.compute_threads,
                 "Threads; 0 takes the CPU quota (default 0)")
      ->type_name("N")
      ->check(CLI::Range(0, 1024));
  app.add_flag("--allow-slow-blas", command.allow_slow_blas,
               "Run although LibTorch is served by a BLAS other than OpenBLAS");
  AddFlags(app, command.request);
  try {
    app.parse(argc - 1, argv + 1);
  } catch (const CLI::CallForHelp&) {
    return ParsedNewtonCommand{absl::nullopt, app.help()};
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(error.what(), " (see laplace-fit ", kName, " --help)"));
  }
  NewtonRequest& request = command.request;
  LAPLACED_RETURN_IF_ERROR(ReadModel(model, request.model, request.version));
  LAPLACED_RETURN_IF_ERROR(
      ReadData("--train", training, request.train_dataset_id, command.training));
  LAPLACED_RETURN_IF_ERROR(
      ReadData("--held-out", held_out, request.held_out_dataset_id, command.held_out));
  return ParsedNewtonCommand{std::move(command), ""};
}

}  // namespace laplaced
