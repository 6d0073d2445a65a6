#include "client/cli/fit_options.h"

#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/cli/context.h"
#include "client/cli/fit_words.h"

namespace laplace::cli {
namespace {

CLI::Option* AddNumber(CLI::App& app, const std::string& flag, absl::optional<double>& value,
                       const std::string& description) {
  const auto set = [&value](double number) { value = number; };
  return app.add_option_function<double>(flag, set, description)->type_name("X");
}

void AddPosteriorOptions(CLI::App& app, client::FitOptions& options) {
  const std::string group = "What is fitted";
  AddEnum(app, "--structure", kStructureWords, options.structure,
          "Form of the posterior: directions of large curvature (default), Kronecker-factored "
          "blocks, or the last layer alone, exactly")
      ->group(group);
  app.add_option("--rank", options.rank, "Directions of a low-rank posterior, K (default 50)")
      ->type_name("K")
      ->group(group);
  AddEnum(
      app, "--residual", kResidualWords, options.residual,
      "Curvature assumed outside the directions: one level for each parameter tensor (default), "
      "one for all, one for each parameter, or none")
      ->group(group);
  AddEnum(app, "--kfac-eigenvalues", kKfacEigenvaluesWords, options.kfac_eigenvalues,
          "Curvature along the eigenvectors of a kfac posterior: exact (default), or products of "
          "the factors' own")
      ->group(group);
  app.add_option("--parameters", options.parameters,
                 "Only these parameters are uncertain, by name, * and ? being wildcards (default "
                 "all)")
      ->type_name("PATTERN[,PATTERN...]")
      ->delimiter(',')
      ->group(group);
  app.add_option("--temperature", options.temperature,
                 "Divides the data's share of the precision; below 1 the posterior is narrower "
                 "(default 1)")
      ->type_name("X")
      ->check(Positive())
      ->group(group);
}

void AddCurvatureOptions(CLI::App& app, client::FitOptions& options) {
  const std::string group = "How curvature is measured";
  AddEnum(
      app, "--curvature", kCurvatureWords, options.curvature,
      "Which curvature of the training loss: exact Gauss-Newton (default), an estimate of it from "
      "targets that the model draws, gradients at the true targets, or the Hessian")
      ->group(group);
  app.add_option("--fisher-samples", options.fisher_samples,
                 "Targets drawn for each example with mc-fisher (default 1)")
      ->type_name("N")
      ->group(group);
  AddEnum(
      app, "--debiasing", kDebiasingWords, options.debiasing,
      "Which examples measure curvature: others than those that chose the directions (default), "
      "the same, each of two batches along the other's directions, or all training data")
      ->group(group);
  app.add_option("--b1", options.direction_batch_size,
                 "Examples that choose the directions (default 1024)")
      ->type_name("N")
      ->group(group);
  app.add_option("--b2", options.curvature_batch_size,
                 "Other examples that measure curvature along them (default 4096)")
      ->type_name("N")
      ->group(group);
  app.add_option("--relative-error", options.target_relative_standard_error,
                 "Stop measuring once the standard error of every direction is below this share of "
                 "its curvature (default never)")
      ->type_name("X")
      ->group(group);
  app.add_flag("--variance-correction", options.variance_correction,
               "Correct variances for the uncertainty of the measured curvature")
      ->group(group);
  app.add_option("--seed", options.seed, "Chooses the examples and the start vector (default 0)")
      ->type_name("S")
      ->group(group);
}

void AddPriorOptions(CLI::App& app, client::FitOptions& options) {
  const std::string group = "Prior and noise";
  AddEnum(app, "--prior-method", kPriorMethodWords, options.prior_method,
          "Prior precision as given, training examples x weight decay, of the largest log "
          "evidence, or of the best validation NLL (default given, validation, weight-decay: the "
          "first that can be had)")
      ->group(group);
  AddNumber(app, "--prior-precision", options.prior_precision, "Prior precision")->group(group);
  AddNumber(app, "--ood-prior-precision", options.ood_prior_precision,
            "Prior precision for OOD scores (default: from the model's weight decay)")
      ->group(group);
  AddEnum(app, "--noise-method", kNoiseMethodWords, options.noise_method,
          "Noise of a Gaussian likelihood as given, of the manifest, from the training residuals, "
          "or of the largest log evidence (default given if it is, else manifest)")
      ->group(group);
  AddNumber(app, "--sigma-noise", options.sigma_noise,
            "Standard deviation of the noise of a Gaussian likelihood")
      ->group(group);
}

void AddLimits(CLI::App& app, client::FitOptions& options) {
  const std::string group = "Limits and thresholds";
  app.add_option("--tolerance", options.lanczos_tolerance,
                 "Largest residual of a direction, relative to the top curvature (default 0.001)")
      ->type_name("X")
      ->group(group);
  app.add_option("--max-products", options.max_products,
                 "At most this many curvature products (default 10 K)")
      ->type_name("N")
      ->group(group);
  app.add_option_function<std::string>(
         "--memory-limit",
         [&options](const std::string& text) {
           const absl::StatusOr<int64_t> bytes = ParseBytes(text);
           if (!bytes.ok()) {
             throw CLI::ValidationError("--memory-limit", std::string(bytes.status().message()));
           }
           options.memory_limit_bytes = *bytes;
         },
         "Memory for the vectors of Lanczos, such as 512M or 2G; more of it saves work (default "
         "K + 12 vectors)")
      ->type_name("BYTES")
      ->group(group);
  app.add_option("--target-id-rate", options.target_id_rate,
                 "Share of validation data that OOD thresholds aim to flag (default 0.05)")
      ->type_name("X")
      ->group(group);
  app.add_option("--feature-layer", options.feature_layer,
                 "Captured weight whose input the feature scores are about (default that of the "
                 "last linear layer)")
      ->type_name("NAME")
      ->group(group);
  app.add_option("--max-validation", options.max_validation_examples,
                 "Use at most this many validation examples (default all)")
      ->type_name("N")
      ->group(group);
}

}  // namespace

void AddFitOptions(CLI::App& app, client::FitOptions& options) {
  AddPosteriorOptions(app, options);
  AddCurvatureOptions(app, options);
  AddPriorOptions(app, options);
  AddLimits(app, options);
}

bool SameOptions(const client::FitOptions& asked, const client::FitOptions& used) {
  const auto same = [](const auto& asked_value, const auto& used_value) {
    return asked_value == std::decay_t<decltype(asked_value)>() || asked_value == used_value;
  };
  return asked.seed == used.seed && same(asked.rank, used.rank) &&
         same(asked.direction_batch_size, used.direction_batch_size) &&
         same(asked.curvature_batch_size, used.curvature_batch_size) &&
         same(asked.debiasing, used.debiasing) && same(asked.residual, used.residual) &&
         same(asked.prior_precision, used.prior_precision) &&
         same(asked.ood_prior_precision, used.ood_prior_precision) &&
         same(asked.lanczos_tolerance, used.lanczos_tolerance) &&
         same(asked.max_products, used.max_products) &&
         same(asked.target_id_rate, used.target_id_rate) &&
         same(asked.max_validation_examples, used.max_validation_examples) &&
         same(asked.structure, used.structure) && same(asked.curvature, used.curvature) &&
         same(asked.parameters, used.parameters) &&
         same(asked.kfac_eigenvalues, used.kfac_eigenvalues) &&
         same(asked.prior_method, used.prior_method) && same(asked.temperature, used.temperature) &&
         same(asked.noise_method, used.noise_method) && same(asked.sigma_noise, used.sigma_noise) &&
         same(asked.target_relative_standard_error, used.target_relative_standard_error) &&
         same(asked.variance_correction, used.variance_correction) &&
         same(asked.memory_limit_bytes, used.memory_limit_bytes) &&
         same(asked.fisher_samples, used.fisher_samples) &&
         same(asked.feature_layer, used.feature_layer);
}

absl::StatusOr<int64_t> ParseBytes(const std::string& text) {
  static constexpr absl::string_view kUnits = "KMGT";
  std::string digits = text;
  int shift = 0;
  const size_t unit = text.empty() ? kUnits.npos : kUnits.find(absl::ascii_toupper(text.back()));
  if (unit != kUnits.npos) {
    shift = 10 * (static_cast<int>(unit) + 1);
    digits.pop_back();
  }
  int64_t number = 0;
  if (!absl::SimpleAtoi(digits, &number) || number < 1 ||
      number > std::numeric_limits<int64_t>::max() >> shift) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected a size such as 512M, 2G or a number of bytes, got ", text));
  }
  return number << shift;
}

}  // namespace laplace::cli
