#include "client/cli/posterior_report.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/fit_words.h"
#include "client/cli/table.h"

namespace laplace::cli {
namespace {

using client::Posterior;
using Lines = std::vector<std::pair<std::string, std::string>>;

bool IsKfac(const Posterior& posterior) {
  return posterior.options.structure == client::Structure::kKfac;
}

bool IsLastLayer(const Posterior& posterior) {
  return posterior.options.structure == client::Structure::kLastLayer;
}

bool IsCrossFit(const Posterior& posterior) {
  return posterior.options.debiasing == client::Debiasing::kCrossFit;
}

std::string StructureText(const Posterior& posterior) {
  const client::FitOptions& options = posterior.options;
  // Older servers name neither structure nor curvature: they had one of each.
  std::string text = options.structure == client::Structure::kDefault
                         ? WordOf(kStructureWords, client::Structure::kLowRank)
                         : WordOf(kStructureWords, options.structure);
  if (IsKfac(posterior) && options.kfac_eigenvalues != client::KfacEigenvalues::kDefault) {
    absl::StrAppend(&text, ", eigenvalues ",
                    WordOf(kKfacEigenvaluesWords, options.kfac_eigenvalues));
  }
  if (!options.parameters.empty()) {
    absl::StrAppend(&text, ", only ", absl::StrJoin(options.parameters, ", "));
  }
  return text;
}

std::string CurvatureText(const client::FitOptions& options) {
  std::string text = options.curvature == client::Curvature::kDefault
                         ? WordOf(kCurvatureWords, client::Curvature::kGgn)
                         : WordOf(kCurvatureWords, options.curvature);
  if (options.curvature == client::Curvature::kMcFisher && options.fisher_samples > 0) {
    absl::StrAppend(&text, ", targets drawn for each example: ", options.fisher_samples);
  }
  return text;
}

// Which examples chose the directions, and which measured the curvature along them.
std::string DebiasingText(const Posterior& posterior) {
  const client::FitOptions& options = posterior.options;
  const std::string first = Count(options.direction_batch_size);
  const std::string second = Count(options.curvature_batch_size);
  const std::string chosen = IsKfac(posterior) ? "eigenvectors" : "directions";
  const std::string strategy = WordOf(kDebiasingWords, options.debiasing);
  switch (options.debiasing) {
    case client::Debiasing::kNone:
      return absl::StrCat(strategy, ", ", chosen, " and curvature from ", first, " examples");
    case client::Debiasing::kCrossFit:
      return absl::StrCat(strategy, ", ", chosen, " from ", first, " examples and from ", second,
                          ", curvature from the other ones");
    default:
      break;
  }
  // Records of older servers do not say how many examples measured.
  const int64_t count = posterior.curvature_count;
  const bool stopped = count > 0 && count < options.curvature_batch_size;
  return absl::StrCat(strategy, ", ", chosen, " from ", first, " examples, curvature from ",
                      count > 0 ? Count(count) : second,
                      stopped ? absl::StrCat(" of ", second) : "");
}

// tr G splits into the directions and the rest; the rest is what the residual stands for. With
// cross-fit each of two sets of directions counts half.
std::string TraceText(const Posterior& posterior) {
  std::string text = absl::StrCat(Number(posterior.trace));
  if (posterior.trace_standard_error > 0) {
    absl::StrAppend(&text, " +- ", Number(posterior.trace_standard_error));
  }
  if (posterior.eigenvalues.empty() || posterior.trace <= 0) return text;
  double sum = 0;
  for (double eigenvalue : posterior.eigenvalues) sum += eigenvalue;
  if (IsCrossFit(posterior)) sum /= 2;
  return absl::StrCat(text, ", ", Percent(sum / posterior.trace), " in the directions");
}

std::string ResidualText(const Posterior& posterior) {
  const client::Residual kind = posterior.options.residual;
  std::string text = WordOf(kResidualWords, kind);
  if (kind != client::Residual::kNone) {
    absl::StrAppend(&text, ", ", Number(posterior.residual), " per dimension");
  }
  if (posterior.residual_share > 0) {
    absl::StrAppend(&text, kind == client::Residual::kNone ? ", leaves out " : ", ",
                    Percent(posterior.residual_share), " of the trace");
  }
  return text;
}

// Of the candidate that was chosen; without it, the smallest one.
double ChosenNll(const Posterior& posterior) {
  double smallest = posterior.prior_candidates[0].validation_nll;
  for (const client::PriorCandidate& candidate : posterior.prior_candidates) {
    if (candidate.prior_precision == posterior.prior_precision) return candidate.validation_nll;
    smallest = std::min(smallest, candidate.validation_nll);
  }
  return smallest;
}

std::string PriorText(const Posterior& posterior) {
  std::string number = Number(posterior.prior_precision);
  switch (posterior.options.prior_method) {
    case client::PriorMethod::kGiven:
      return number + " (given)";
    case client::PriorMethod::kWeightDecay:
      return number + " (training examples x weight decay)";
    case client::PriorMethod::kEvidence:
      return number + " (maximises the log evidence)";
    default:
      break;
  }
  // Older servers did not name the method, and had candidates only with validation data.
  if (posterior.prior_candidates.empty()) return number;
  return absl::StrCat(number, " (tuned; validation NLL ", Number(posterior.validation_nll_map),
                      " -> ", Number(ChosenNll(posterior)), ")");
}

std::string NoiseText(const client::FitOptions& options) {
  std::string number = Number(*options.sigma_noise);
  switch (options.noise_method) {
    case client::NoiseMethod::kGiven:
      return number + " (given)";
    case client::NoiseMethod::kManifest:
      return number + " (from the manifest)";
    case client::NoiseMethod::kData:
      return number + " (from the training residuals)";
    case client::NoiseMethod::kEvidence:
      return number + " (maximises the log evidence)";
    default:
      return number;
  }
}

void AddForm(const Posterior& posterior, Lines& lines) {
  lines.emplace_back("structure", StructureText(posterior));
  lines.emplace_back("curvature", CurvatureText(posterior.options));
  if (IsKfac(posterior) || IsLastLayer(posterior)) {
    lines.emplace_back("parameters", absl::StrCat(Count(posterior.n_parameters), " in ",
                                                  posterior.blocks.size(), " tensors"));
  } else {
    lines.emplace_back("directions", absl::StrCat(posterior.rank, " of ",
                                                  Count(posterior.n_parameters), " dimensions"));
  }
  if (IsLastLayer(posterior)) {
    lines.emplace_back("measured on", absl::StrCat(Count(posterior.curvature_count), " examples"));
  } else {
    lines.emplace_back("debiasing", DebiasingText(posterior));
  }
  if (posterior.options.variance_correction) {
    lines.emplace_back("variances", "corrected for the uncertainty of the curvature");
  }
}

void AddPrior(const Posterior& posterior, Lines& lines) {
  lines.emplace_back("prior precision", PriorText(posterior));
  lines.emplace_back("  for OOD scores", Number(posterior.ood_prior_precision));
  if (posterior.options.sigma_noise) {
    lines.emplace_back("noise std", NoiseText(posterior.options));
  }
  // Older servers send 0.
  const double temperature = posterior.options.temperature;
  if (temperature != 0 && temperature != 1) {
    lines.emplace_back("temperature", Number(temperature));
  }
}

void AddResults(const Posterior& posterior, Lines& lines) {
  lines.emplace_back("training examples", Count(posterior.n_data));
  lines.emplace_back("mean training loss",
                     absl::StrCat(Number(posterior.mean_train_loss), " nats"));
  lines.emplace_back("log evidence",
                     absl::StrCat(Number(posterior.log_marginal_likelihood), " nats"));
  lines.emplace_back("effective parameters", Number(posterior.effective_parameters));
  if (posterior.trace > 0) lines.emplace_back("curvature (trace)", TraceText(posterior));
  if (!IsKfac(posterior) && !IsLastLayer(posterior)) {
    lines.emplace_back("residual", ResidualText(posterior));
  }
  if (posterior.clipped_directions > 0) {
    lines.emplace_back(
        "clipped", absl::StrCat(posterior.clipped_directions,
                                " directions had curvature below zero, which ", "counts as zero"));
  }
}

void AddOrigin(const Posterior& posterior, Lines& lines) {
  if (!posterior.parent_posterior_id.empty()) {
    lines.emplace_back("updated from",
                       absl::StrCat(posterior.parent_posterior_id, ", ",
                                    Count(posterior.updated_examples), " examples added in all"));
  }
  lines.emplace_back("seed", absl::StrCat(posterior.options.seed));
  lines.emplace_back("created", posterior.create_time);
  lines.emplace_back("took",
                     absl::StrCat(Seconds(posterior.cost.seconds), ", ",
                                  Count(posterior.cost.curvature_products), " curvature products"));
  if (posterior.cost.peak_memory_bytes > 0) {
    lines.emplace_back("peak memory",
                       absl::StrCat(Bytes(posterior.cost.peak_memory_bytes), " more than before"));
  }
  lines.emplace_back("training data", ShortHash(posterior.train_dataset_id));
  if (!posterior.validation_dataset_id.empty()) {
    lines.emplace_back("validation data", ShortHash(posterior.validation_dataset_id));
  }
  lines.emplace_back("checkpoint", ShortHash(posterior.checkpoint_sha256));
  lines.emplace_back("made by", posterior.code_version);
}

// Names in lines of about 70 characters.
std::string NameLines(const std::vector<std::string>& names) {
  std::string text;
  size_t width = 0;
  for (const std::string& name : names) {
    const bool fits = width + name.size() <= 70;
    if (!text.empty()) text += fits ? ", " : ",\n";
    width = fits ? width + name.size() + 2 : name.size() + 2;
    text += name;
  }
  return text;
}

void AddOodScores(const Posterior& posterior, Lines& lines) {
  if (posterior.features) {
    const client::FeatureSummary& features = *posterior.features;
    lines.emplace_back("feature layer",
                       absl::StrCat(features.layer, ", ", Count(features.n_features),
                                    " features of ", Count(features.count), " examples"));
    lines.emplace_back("feature bank",
                       absl::StrCat(Count(features.bank_size), " examples, k = ", features.knn_k));
  }
  if (!posterior.available_ood_scores.empty()) {
    lines.emplace_back("OOD scores", NameLines(posterior.available_ood_scores));
  }
}

}  // namespace

std::string ThresholdTable(const Posterior& posterior) {
  Table table({{"OOD SCORE"},
               {"THRESHOLD", Table::Align::kRight},
               {"AIMS TO FLAG", Table::Align::kRight},
               {"95 % INTERVAL"},
               {"CALIBRATED ON", Table::Align::kRight}});
  for (const client::OodThreshold& threshold : posterior.ood_thresholds) {
    const bool is_default = threshold.score == posterior.default_ood_score;
    table.AddRow(
        {absl::StrCat(threshold.score, is_default ? " *" : ""), Number(threshold.threshold),
         Percent(threshold.target_id_rate),
         absl::StrCat(Percent(threshold.rate_lower), " to ", Percent(threshold.rate_upper)),
         Count(threshold.count)});
  }
  std::string text = absl::StrCat(table.ToString(), "* the default score\n");
  if (!posterior.calibration_dataset_id.empty()) {
    absl::StrAppend(&text, "calibrated on data set ", ShortHash(posterior.calibration_dataset_id),
                    "\n");
  }
  return text;
}

std::string PosteriorSummary(const Posterior& posterior) {
  Lines lines = {{"posterior", absl::StrCat(posterior.id, posterior.active ? " (active)" : "")},
                 {"model", absl::StrCat(posterior.model, "/", posterior.version)}};
  AddForm(posterior, lines);
  AddPrior(posterior, lines);
  AddResults(posterior, lines);
  AddOodScores(posterior, lines);
  AddOrigin(posterior, lines);
  std::string text = NameValueList(lines);
  if (!posterior.ood_thresholds.empty()) absl::StrAppend(&text, "\n", ThresholdTable(posterior));
  for (const std::string& warning : posterior.warnings) {
    absl::StrAppend(&text, "\nnote: ", warning, "\n");
  }
  return text;
}

}  // namespace laplace::cli
