#include "server/serving/fit_records.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/model/field_error.h"
#include "server/model/torch_runtime.h"
#include "server/model/torch_status.h"
#include "server/serving/fit_request_check.h"

namespace laplaced {
namespace {

template <typename Enum>
using Names = std::vector<std::pair<const char*, Enum>>;

const Names<StructureKind> kStructures = {{"low_rank", StructureKind::kLowRank},
                                          {"kfac", StructureKind::kKfac},
                                          {"last_layer", StructureKind::kLastLayer}};
const Names<CurvatureKind> kCurvatures = {{"ggn", CurvatureKind::kGgn},
                                          {"mc_fisher", CurvatureKind::kMcFisher},
                                          {"empirical_fisher", CurvatureKind::kEmpiricalFisher},
                                          {"hessian", CurvatureKind::kHessian}};
const Names<Debiasing> kStrategies = {{"two_batch", Debiasing::kTwoBatch},
                                      {"none", Debiasing::kNone},
                                      {"cross_fit", Debiasing::kCrossFit},
                                      {"full_pass", Debiasing::kFullPass}};
const Names<ResidualKind> kResiduals = {{"layerwise", ResidualKind::kLayerwise},
                                        {"none", ResidualKind::kNone},
                                        {"isotropic", ResidualKind::kIsotropic},
                                        {"diagonal", ResidualKind::kDiagonal}};
const Names<bool> kKfacEigenvalues = {{"exact", true}, {"factors", false}};
const Names<PriorMethod> kPriorMethods = {{"given", PriorMethod::kGiven},
                                          {"weight_decay", PriorMethod::kWeightDecay},
                                          {"evidence", PriorMethod::kEvidence},
                                          {"validation", PriorMethod::kValidation}};
const Names<NoiseMethod> kNoiseMethods = {{"manifest", NoiseMethod::kManifest},
                                          {"given", NoiseMethod::kGiven},
                                          {"data", NoiseMethod::kData},
                                          {"evidence", NoiseMethod::kEvidence}};

template <typename Enum>
const char* NameIn(const Names<Enum>& names, Enum value) {
  for (const auto& [name, known] : names) {
    if (known == value) return name;
  }
  return "";
}

// The first name is the default, which "" stands for.
template <typename Enum>
absl::StatusOr<Enum> Find(const Names<Enum>& names, const std::string& field,
                          const std::string& name) {
  if (name.empty()) return names[0].second;
  for (const auto& [known, value] : names) {
    if (name == known) return value;
  }
  const auto format = [](std::string* out, const auto& entry) { out->append(entry.first); };
  return FieldError(field, absl::StrCat("expected one of ", absl::StrJoin(names, ", ", format),
                                        ", got \"", name, "\""));
}

absl::Status NotNegative(const char* field, int64_t value) {
  if (value >= 0) return absl::OkStatus();
  return FieldError(field,
                    absl::StrCat("expected 0 (the default) or a positive number, got ", value));
}

// What request and record have in common: the names.
template <typename Source>
absl::Status ReadNames(const Source& source, const std::string& residual, FitOptions& options) {
  LAPLACED_ASSIGN_OR_RETURN(options.structure,
                            Find(kStructures, "options.structure", source.structure));
  LAPLACED_ASSIGN_OR_RETURN(options.low_rank.curvature.kind,
                            Find(kCurvatures, "options.curvature", source.curvature));
  LAPLACED_ASSIGN_OR_RETURN(options.low_rank.debiasing,
                            Find(kStrategies, "options.debiasing", source.debiasing));
  LAPLACED_ASSIGN_OR_RETURN(options.low_rank.residual,
                            Find(kResiduals, "options.residual", residual));
  LAPLACED_ASSIGN_OR_RETURN(options.kfac_exact, Find(kKfacEigenvalues, "options.kfac_eigenvalues",
                                                     source.kfac_eigenvalues));
  if (!source.prior_method.empty()) {
    LAPLACED_ASSIGN_OR_RETURN(options.prior_method,
                              Find(kPriorMethods, "options.prior_method", source.prior_method));
  }
  if (!source.noise_method.empty()) {
    LAPLACED_ASSIGN_OR_RETURN(options.noise_method,
                              Find(kNoiseMethods, "options.noise_method", source.noise_method));
  }
  return absl::OkStatus();
}

}  // namespace

const char* NameOf(PriorMethod method) { return NameIn(kPriorMethods, method); }
const char* NameOf(NoiseMethod method) { return NameIn(kNoiseMethods, method); }

absl::StatusOr<FitOptions> ToFitOptions(const FitRequest& request) {
  LAPLACED_RETURN_IF_ERROR(NotNegative("options.rank", request.rank));
  LAPLACED_RETURN_IF_ERROR(
      NotNegative("options.direction_batch_size", request.direction_batch_size));
  LAPLACED_RETURN_IF_ERROR(
      NotNegative("options.curvature_batch_size", request.curvature_batch_size));
  LAPLACED_RETURN_IF_ERROR(NotNegative("options.max_products", request.max_products));
  LAPLACED_RETURN_IF_ERROR(
      NotNegative("options.max_validation_examples", request.max_validation_examples));
  LAPLACED_RETURN_IF_ERROR(NotNegative("options.memory_limit_bytes", request.memory_limit_bytes));
  LAPLACED_RETURN_IF_ERROR(NotNegative("options.fisher_samples", request.fisher_samples));
  if (!(request.target_id_rate >= 0 && request.target_id_rate < 1)) {
    return FieldError("options.target_id_rate",
                      absl::StrCat("expected a number in (0, 1), got ", request.target_id_rate));
  }
  FitOptions options;
  LAPLACED_RETURN_IF_ERROR(ReadNames(request, request.residual, options));
  LAPLACED_RETURN_IF_ERROR(CheckFitRequest(request));
  LowRankOptions& low_rank = options.low_rank;
  if (request.rank > 0) low_rank.rank = request.rank;
  if (request.direction_batch_size > 0)
    low_rank.direction_batch_size = request.direction_batch_size;
  if (low_rank.debiasing == Debiasing::kNone || low_rank.debiasing == Debiasing::kFullPass) {
    low_rank.curvature_batch_size = 0;
  } else if (request.curvature_batch_size > 0) {
    low_rank.curvature_batch_size = request.curvature_batch_size;
  }
  low_rank.variance_correction = request.variance_correction;
  low_rank.seed = request.seed;
  low_rank.curvature.seed = request.seed;
  if (request.fisher_samples > 0) low_rank.curvature.fisher_samples = request.fisher_samples;
  if (request.lanczos_tolerance != 0) low_rank.lanczos_tolerance = request.lanczos_tolerance;
  low_rank.max_products = request.max_products;
  low_rank.lanczos_memory_bytes = request.memory_limit_bytes;
  low_rank.target_relative_standard_error = request.target_relative_standard_error;
  options.parameters = request.parameters;
  options.prior_precision = request.prior_precision;
  options.ood_prior_precision = request.ood_prior_precision;
  if (request.temperature != 0) options.temperature = request.temperature;
  options.sigma_noise = request.sigma_noise;
  options.max_validation_examples = request.max_validation_examples;
  // The rest is for data, serving and everybody else.
  options.memory_limit_bytes = MemoryLimitBytes() / 2;
  return options;
}

absl::StatusOr<FitOptions> ToFitOptions(const PosteriorRecord& record) {
  FitOptions options;
  const absl::Status named =
      ReadNames(record, record.structure == "low_rank" ? record.residual_kind : "", options);
  if (!named.ok()) return absl::DataLossError(named.message());
  LowRankOptions& low_rank = options.low_rank;
  low_rank.rank = record.requested_rank;
  low_rank.direction_batch_size = record.direction_batch_size;
  low_rank.curvature_batch_size = record.curvature_batch_size;
  low_rank.variance_correction = record.variance_correction;
  low_rank.seed = record.seed;
  low_rank.curvature.seed = record.seed;
  if (record.fisher_samples > 0) low_rank.curvature.fisher_samples = record.fisher_samples;
  low_rank.lanczos_tolerance = record.lanczos_tolerance;
  low_rank.max_products = record.max_products;
  low_rank.lanczos_memory_bytes = record.memory_limit_bytes;
  low_rank.target_relative_standard_error = record.target_relative_standard_error;
  options.parameters = record.parameters;
  if (options.prior_method == PriorMethod::kGiven) options.prior_precision = record.prior_precision;
  options.temperature = record.temperature;
  if (options.noise_method == NoiseMethod::kGiven) options.sigma_noise = record.sigma_noise;
  options.max_validation_examples = record.max_validation_examples;
  options.memory_limit_bytes = MemoryLimitBytes() / 2;
  return options;
}

void FillOptions(const FitOptions& options, PosteriorRecord& record) {
  const LowRankOptions& low_rank = options.low_rank;
  const bool is_low_rank = options.structure == StructureKind::kLowRank;
  const bool has_batches = options.structure != StructureKind::kLastLayer;
  record.structure = NameIn(kStructures, options.structure);
  record.curvature = NameIn(kCurvatures, low_rank.curvature.kind);
  record.debiasing = has_batches ? NameIn(kStrategies, low_rank.debiasing) : "none";
  record.residual_kind = is_low_rank ? NameIn(kResiduals, low_rank.residual) : "";
  if (options.structure == StructureKind::kKfac) {
    record.kfac_eigenvalues = NameIn(kKfacEigenvalues, options.kfac_exact);
  }
  if (is_low_rank) {
    record.requested_rank = low_rank.rank;
    record.lanczos_tolerance = low_rank.lanczos_tolerance;
    record.max_products = low_rank.max_products > 0 ? low_rank.max_products : 10 * low_rank.rank;
    record.memory_limit_bytes = low_rank.lanczos_memory_bytes;
    record.target_relative_standard_error = low_rank.target_relative_standard_error;
    record.variance_correction = low_rank.variance_correction;
  }
  if (has_batches) {
    record.direction_batch_size = low_rank.direction_batch_size;
    record.curvature_batch_size = low_rank.curvature_batch_size;
  }
  record.seed = low_rank.seed;
  if (low_rank.curvature.kind == CurvatureKind::kMcFisher) {
    record.fisher_samples = low_rank.curvature.fisher_samples;
  }
  record.parameters = options.parameters;
  record.temperature = options.temperature;
  record.max_validation_examples = options.max_validation_examples;
}

}  // namespace laplaced
