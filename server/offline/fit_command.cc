#include "server/offline/fit_command.h"

#include <CLI/CLI.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/model/torch_status.h"
#include "server/offline/data_flags.h"

namespace laplaced {
namespace {

constexpr char kDescription[] =
    "Fits a Laplace posterior without a server, on one process or on several that share the data, "
    "and activates it.";

constexpr char kFooter[] =
    "The registry is a folder models/NAME/VERSION/{model.pt, model.json}, the same that laplaced\n"
    "serves; one process at a time may write to it, so a server on it must be --read-only.\n"
    "\n"
    "Several processes are told by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun and\n"
    "Kubeflow's PyTorchJob set them; all must see the registry folder. The result is that of one\n"
    "process up to rounding, and is written once.\n"
    "\n"
    "Exit status: 0 fitted, 1 failed or stopped by a signal, 2 bad flags, 128 + N: a second\n"
    "signal N.\n"
    "\n"
    "\"laplace-fit newton-step --help\" tells of another command, which moves a checkpoint closer "
    "to its\n"
    "mode before the fit.\n"
    "\n"
    "Examples:\n"
    "  laplace-fit --registry /srv/registry resnet20 --train train.npz --validation val.npz\n"
    "  torchrun --no_python --nproc_per_node 4 laplace-fit --registry /srv/registry resnet50 \\\n"
    "      --train images.npy,labels.npy --train-rows 0:1200000 --resume";

void AddWord(CLI::App& app, const std::string& flag, std::string& value,
             std::vector<std::string> words, const std::string& description) {
  laplaced::AddWord(app, flag, value, std::move(words), description, "Fit");
}

template <typename T>
void AddNumber(CLI::App& app, const std::string& flag, T& value, const std::string& description) {
  app.add_option(flag, value, description)->type_name("N")->group("Fit");
}

void AddOptional(CLI::App& app, const std::string& flag, absl::optional<double>& value,
                 const std::string& description) {
  app.add_option_function<double>(
         flag, [&value](double x) { value = x; }, description)
      ->type_name("X")
      ->group("Fit");
}

void AddFitFlags(CLI::App& app, FitRequest& r) {
  AddWord(app, "--structure", r.structure, {"low-rank", "kfac", "last-layer"},
          "Form of the posterior (default low-rank)");
  AddNumber(app, "--rank", r.rank, "Directions of a low-rank posterior (default 50)");
  AddWord(app, "--residual", r.residual, {"layerwise", "isotropic", "diagonal", "none"},
          "Curvature assumed outside the directions (default layerwise)");
  AddWord(app, "--kfac-eigenvalues", r.kfac_eigenvalues, {"exact", "factors"},
          "Curvature along the eigenvectors of a kfac posterior (default exact)");
  app.add_option("--parameters", r.parameters,
                 "Only these parameters are uncertain, * and ? being wildcards (default all)")
      ->delimiter(',')
      ->type_name("PATTERN[,PATTERN...]")
      ->group("Fit");
  AddNumber(app, "--temperature", r.temperature,
            "Divides the data's share of the precision (default 1)");
  AddWord(app, "--curvature", r.curvature, {"ggn", "mc-fisher", "empirical-fisher", "hessian"},
          "Which curvature of the training loss (default ggn)");
  AddNumber(app, "--fisher-samples", r.fisher_samples,
            "Targets drawn for each example with mc-fisher (default 1)");
  AddWord(app, "--debiasing", r.debiasing, {"two-batch", "none", "cross-fit", "full-pass"},
          "Which examples measure curvature (default two-batch)");
  AddNumber(app, "--b1", r.direction_batch_size,
            "Examples that choose the directions (default 1024)");
  AddNumber(app, "--b2", r.curvature_batch_size,
            "Other examples that measure curvature along them (default 4096)");
  AddNumber(app, "--relative-error", r.target_relative_standard_error,
            "Stop measuring below this relative standard error (default never)");
  app.add_flag("--variance-correction", r.variance_correction,
               "Correct variances for the uncertainty of the measured curvature")
      ->group("Fit");
  AddNumber(app, "--seed", r.seed, "Chooses the examples and the start vector (default 0)");
  AddWord(app, "--prior-method", r.prior_method,
          {"given", "weight-decay", "evidence", "validation"},
          "How the prior precision is chosen (default the first that can be had of given, "
          "validation, weight-decay)");
  AddOptional(app, "--prior-precision", r.prior_precision, "Prior precision");
  AddOptional(app, "--ood-prior-precision", r.ood_prior_precision,
              "Prior precision for OOD scores (default: from the weight decay)");
  AddWord(app, "--noise-method", r.noise_method, {"given", "manifest", "data", "evidence"},
          "Noise of a Gaussian likelihood (default given if it is, else manifest)");
  AddOptional(app, "--sigma-noise", r.sigma_noise, "Standard deviation of that noise");
  AddNumber(app, "--tolerance", r.lanczos_tolerance,
            "Largest residual of a direction, relative to the top curvature (default 0.001)");
  AddNumber(app, "--max-products", r.max_products,
            "At most this many curvature products (default 10 times the rank)");
  app.add_option("--memory-limit", r.memory_limit_bytes,
                 "Memory of each process for the vectors of Lanczos, such as 512MB or 2GB (default "
                 "rank + 12 vectors, divided by the processes)")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false))
      ->type_name("BYTES")
      ->group("Fit");
  AddNumber(app, "--target-id-rate", r.target_id_rate,
            "Share of validation data that OOD thresholds aim to flag (default 0.05)");
  app.add_option("--feature-layer", r.feature_layer,
                 "Captured weight whose input the feature scores are about (default that of the "
                 "last linear layer)")
      ->type_name("NAME")
      ->group("Fit");
  AddNumber(app, "--max-validation", r.max_validation_examples,
            "Use at most this many validation examples (default all)");
}

}  // namespace

absl::StatusOr<ParsedFitCommand> ParseFitCommand(int argc, const char* const* argv) {
  CLI::App app(kDescription, "laplace-fit");
  app.footer(kFooter);
  app.set_version_flag("--version", "laplace-fit " LAPLACED_VERSION);
  app.get_formatter()->column_width(32);
  FitCommand command;
  std::string model;
  DataFlags training, validation;
  app.add_option("MODEL", model, "Model to fit, by default its highest version")
      ->type_name("NAME[/VERSION]")
      ->required();
  app.add_option("--registry", command.registry, "Folder with models, data sets and posteriors")
      ->type_name("DIR")
      ->required();
  app.add_flag("--keep-inactive", command.request.keep_inactive,
               "Leave the active posterior as it is");
  AddDataFlags(app, "--train", "Training data", /*required=*/true, training);
  AddDataFlags(app, "--validation", "Held-out data, which tunes the prior and OOD thresholds",
               /*required=*/false, validation);
  const std::string process = "Processes";
  app.add_flag("--resume", command.resume,
               "Go on from the last checkpoint of this fit, if there is one; with any number of "
               "processes")
      ->group(process);
  app.add_option("--checkpoint-folder", command.checkpoint_folder,
                 "Where the state of the search for directions is kept while it lasts, for all "
                 "processes to see (default checkpoints/MODEL-VERSION in the registry)")
      ->type_name("DIR")
      ->group(process);
  app.add_option("--checkpoint-seconds", command.checkpoint_seconds,
                 "Time between checkpoints; 0 keeps none (default 300)")
      ->type_name("SECONDS")
      ->check(CLI::NonNegativeNumber)
      ->group(process);
  app.add_option("--compute-threads", command.compute_threads,
                 "Threads of each process; 0 divides the CPU quota by LOCAL_WORLD_SIZE (default 0)")
      ->type_name("N")
      ->check(CLI::Range(0, 1024))
      ->group(process);
  app.add_option("--join-timeout", command.join_timeout_seconds,
                 "Time in which all processes must have come (default 60)")
      ->type_name("SECONDS")
      ->check(CLI::Range(0.1, 86400.0))
      ->group(process);
  app.add_option("--rank-timeout", command.rank_timeout_seconds,
                 "Time that processes wait for the slowest one before the fit fails; one that dies "
                 "is noticed at once (default 300)")
      ->type_name("SECONDS")
      ->check(CLI::Range(0.1, 86400.0))
      ->group(process);
  app.add_flag("--allow-slow-blas", command.allow_slow_blas,
               "Run although LibTorch is served by a BLAS other than OpenBLAS")
      ->group(process);
  AddFitFlags(app, command.request);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return ParsedFitCommand{absl::nullopt, app.help()};
  } catch (const CLI::CallForVersion& version) {
    return ParsedFitCommand{absl::nullopt, absl::StrCat(version.what(), "\n")};
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(absl::StrCat(error.what(), " (see laplace-fit --help)"));
  }
  LAPLACED_RETURN_IF_ERROR(ReadModel(model, command.request.model, command.request.version));
  LAPLACED_RETURN_IF_ERROR(
      ReadData("--train", training, command.request.train_dataset_id, command.training));
  LAPLACED_RETURN_IF_ERROR(ReadData("--validation", validation,
                                    command.request.validation_dataset_id, command.validation));
  return ParsedFitCommand{std::move(command), ""};
}

}  // namespace laplaced
