// The command line `laplace`.
#include <CLI/CLI.hpp>
#include <iostream>

#include "client/cli/config_file.h"
#include "client/cli/context.h"
#include "client/cli/help.h"

namespace laplace::cli {
namespace {

int Run(int argc, char** argv) {
  Context context;
  std::string output = "table";

  CLI::App app("Uncertainty and out-of-distribution scores from a laplaced server.", "laplace");
  app.formatter_fn(HelpText);
  app.set_help_flag("-h,--help", "Print this and exit");
  app.require_subcommand(1);
  app.fallthrough();
  AddConnectionOptions(app, context);
  AddChoice(app, "--output", output, {"table", "json"}, "How to print results (default table)");
  SetExample(app,
             "Exit codes:\n"
             "  0  done\n"
             "  1  the server refused or failed, or a file could not be read\n"
             "  2  the command line makes no sense\n"
             "  3  a check does not hold, such as score --gate\n"
             "\n"
             "Example:\n"
             "  laplace models load fashion_cnn\n"
             "  laplace fit fashion_cnn --train train.npz --validation validation.npz\n"
             "  laplace predict fashion_cnn --input new.npy");
  AddModelsVerb(app, context);
  AddFitVerb(app, context);
  AddPosteriorVerb(app, context);
  AddNewtonStepVerb(app, context);
  AddOperationsVerb(app, context);
  AddPredictVerb(app, context);
  AddScoreVerb(app, context);
  AddEvaluateVerb(app, context);
  AddHealthVerb(app, context);
  AddTokenVerb(app, context);
  AddBenchVerb(app, context);
  AddCompletionVerb(app, context);

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    std::cerr << "laplace: " << error.what() << "\nRun it with --help to see what it takes.\n";
    return kExitUsage;
  }
  context.json = output == "json";
  absl::Status status = context.needs_server ? ApplyConfigFile(app, context) : absl::OkStatus();
  if (status.ok()) status = context.command();
  if (status.ok()) return context.exit_code;
  std::cerr << ErrorText(status);
  return kExitError;
}

}  // namespace
}  // namespace laplace::cli

int main(int argc, char** argv) { return laplace::cli::Run(argc, argv); }
