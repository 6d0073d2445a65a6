#include "server/rpc/fit_options_codec.h"

#include <google/protobuf/descriptor.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/model/field_error.h"
#include "server/rpc/enum_words.h"
#include "server/rpc/request_checks.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;

// Name of an enum value for messages; the default by what it stands for.
template <typename Enum>
std::string NameOf(Enum value, Enum default_value) {
  const auto* descriptor = google::protobuf::GetEnumDescriptor<Enum>();
  const std::string& name =
      descriptor->FindValueByNumber(value == Enum() ? default_value : value)->name();
  return value == Enum() ? absl::StrCat(name, " (the default)") : name;
}

std::string StructureName(const v1::FitOptions& options) {
  return NameOf(options.structure(), v1::POSTERIOR_STRUCTURE_LOW_RANK);
}

std::string DebiasingName(const v1::FitOptions& options) {
  return NameOf(options.debiasing(), v1::DEBIASING_STRATEGY_TWO_BATCH);
}

bool IsLowRank(const v1::FitOptions& options) {
  return options.structure() == v1::POSTERIOR_STRUCTURE_UNSPECIFIED ||
         options.structure() == v1::POSTERIOR_STRUCTURE_LOW_RANK;
}

template <typename Enum, size_t kSize>
absl::Status ReadWord(const EnumWord<Enum> (&table)[kSize], const char* field, Enum value,
                      std::string* word) {
  absl::StatusOr<std::string> read = WordOf(table, field, value);
  if (!read.ok()) return read.status();
  *word = *std::move(read);
  return absl::OkStatus();
}

absl::Status ReadWords(const v1::FitOptions& options, FitRequest* fit) {
  absl::Status status =
      ReadWord(kDebiasingWords, "options.debiasing", options.debiasing(), &fit->debiasing);
  status.Update(ReadWord(kResidualWords, "options.residual", options.residual(), &fit->residual));
  status.Update(
      ReadWord(kStructureWords, "options.structure", options.structure(), &fit->structure));
  status.Update(
      ReadWord(kCurvatureWords, "options.curvature", options.curvature(), &fit->curvature));
  status.Update(ReadWord(kKfacEigenvaluesWords, "options.kfac_eigenvalues",
                         options.kfac_eigenvalues(), &fit->kfac_eigenvalues));
  status.Update(ReadWord(kPriorMethodWords, "options.prior_method", options.prior_method(),
                         &fit->prior_method));
  status.Update(ReadWord(kNoiseMethodWords, "options.noise_method", options.noise_method(),
                         &fit->noise_method));
  return status;
}

absl::Status CheckSizes(const v1::FitOptions& options) {
  const struct {
    const char* field;
    int64_t value;
  } sizes[] = {{"options.rank", options.rank()},
               {"options.direction_batch_size", options.direction_batch_size()},
               {"options.curvature_batch_size", options.curvature_batch_size()},
               {"options.max_products", options.max_products()},
               {"options.max_validation_examples", options.max_validation_examples()},
               {"options.memory_limit_bytes", options.memory_limit_bytes()},
               {"options.fisher_samples", options.fisher_samples()}};
  for (const auto& size : sizes) {
    absl::Status status = CheckNotNegative(size.field, size.value);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status CheckNumbers(const v1::FitOptions& options) {
  absl::Status status = CheckBelow("options.lanczos_tolerance", options.lanczos_tolerance(), 1);
  status.Update(CheckBelow("options.target_id_rate", options.target_id_rate(), 1));
  status.Update(CheckBelow("options.target_relative_standard_error",
                           options.target_relative_standard_error(), 1));
  if (options.temperature() != 0) {
    status.Update(CheckPositive("options.temperature", options.temperature()));
  }
  if (options.has_prior_precision()) {
    status.Update(CheckPositive("options.prior_precision", options.prior_precision()));
  }
  if (options.has_ood_prior_precision()) {
    status.Update(CheckPositive("options.ood_prior_precision", options.ood_prior_precision()));
  }
  if (options.has_sigma_noise()) {
    status.Update(CheckPositive("options.sigma_noise", options.sigma_noise()));
  }
  return status;
}

// What goes with which structure.
absl::Status CheckStructure(const v1::FitOptions& options) {
  const v1::DebiasingStrategy debiasing = options.debiasing();
  const bool two_passes = debiasing == v1::DEBIASING_STRATEGY_CROSS_FIT ||
                          debiasing == v1::DEBIASING_STRATEGY_FULL_PASS;
  const bool low_rank = IsLowRank(options);
  if (two_passes && !low_rank) {
    return FieldError(
        "options.debiasing",
        absl::StrCat("expected DEBIASING_STRATEGY_NONE or ", "DEBIASING_STRATEGY_TWO_BATCH with ",
                     StructureName(options), ", got ", DebiasingName(options)));
  }
  if (!low_rank && options.residual() != v1::RESIDUAL_KIND_UNSPECIFIED) {
    return FieldError(
        "options.residual",
        absl::StrCat("expected nothing with ", StructureName(options), ", which leaves no ",
                     "residual, got ", v1::ResidualKind_Name(options.residual())));
  }
  if (!low_rank && options.curvature() == v1::CURVATURE_KIND_HESSIAN) {
    return FieldError(
        "options.curvature",
        absl::StrCat("expected CURVATURE_KIND_HESSIAN only with ",
                     "POSTERIOR_STRUCTURE_LOW_RANK, got it with ", StructureName(options)));
  }
  if (!low_rank && options.variance_correction()) {
    return FieldError("options.variance_correction",
                      absl::StrCat("expected true only with POSTERIOR_STRUCTURE_LOW_RANK, got it ",
                                   "with ", StructureName(options)));
  }
  if (options.kfac_eigenvalues() != v1::KFAC_EIGENVALUES_UNSPECIFIED &&
      options.structure() != v1::POSTERIOR_STRUCTURE_KFAC) {
    return FieldError("options.kfac_eigenvalues",
                      absl::StrCat("expected nothing but with POSTERIOR_STRUCTURE_KFAC, got ",
                                   v1::KfacEigenvalues_Name(options.kfac_eigenvalues()), " with ",
                                   StructureName(options)));
  }
  return absl::OkStatus();
}

// Options that the chosen structure has no use for: taken in silence they would promise something.
absl::Status CheckUseless(const v1::FitOptions& options) {
  if (IsLowRank(options)) return absl::OkStatus();
  const bool last_layer = options.structure() == v1::POSTERIOR_STRUCTURE_LAST_LAYER;
  const struct {
    const char* field;
    bool given;
    bool refused;
  } useless[] = {
      {"options.rank", options.rank() != 0, true},
      {"options.lanczos_tolerance", options.lanczos_tolerance() != 0, true},
      {"options.max_products", options.max_products() != 0, true},
      {"options.memory_limit_bytes", options.memory_limit_bytes() != 0, true},
      {"options.target_relative_standard_error", options.target_relative_standard_error() != 0,
       true},
      {"options.debiasing", options.debiasing() != v1::DEBIASING_STRATEGY_UNSPECIFIED, last_layer},
      {"options.direction_batch_size", options.direction_batch_size() != 0, last_layer},
      {"options.curvature_batch_size", options.curvature_batch_size() != 0, last_layer}};
  for (const auto& option : useless) {
    if (!option.given || !option.refused) continue;
    return FieldError(
        option.field,
        absl::StrCat("has no meaning with ", StructureName(options),
                     last_layer ? ", which uses all training data and no batches" : "",
                     ": leave it out"));
  }
  return absl::OkStatus();
}

absl::Status CheckParameters(const v1::FitOptions& options) {
  if (options.structure() == v1::POSTERIOR_STRUCTURE_LAST_LAYER && options.parameters_size() > 0) {
    return FieldError("options.parameters",
                      absl::StrCat("expected none with POSTERIOR_STRUCTURE_LAST_LAYER, whose ",
                                   "parameters GetModel lists, got ", options.parameters_size()));
  }
  for (int i = 0; i < options.parameters_size(); ++i) {
    if (!options.parameters(i).empty()) continue;
    return FieldError(absl::StrCat("options.parameters[", i, "]"),
                      "expected the name of a parameter, or a pattern with * and ?, got an empty "
                      "text");
  }
  return absl::OkStatus();
}

// How curvature is measured.
absl::Status CheckMeasuring(const v1::FitOptions& options) {
  const v1::DebiasingStrategy debiasing = options.debiasing();
  if (options.curvature_batch_size() != 0 && debiasing == v1::DEBIASING_STRATEGY_NONE) {
    return FieldError("options.curvature_batch_size",
                      absl::StrCat("expected 0 with DEBIASING_STRATEGY_NONE, which measures on the "
                                   "batch that chose the directions, got ",
                                   options.curvature_batch_size()));
  }
  if (options.curvature_batch_size() != 0 && debiasing == v1::DEBIASING_STRATEGY_FULL_PASS) {
    return FieldError("options.curvature_batch_size",
                      absl::StrCat("expected 0 with DEBIASING_STRATEGY_FULL_PASS, which measures "
                                   "on all training data, got ",
                                   options.curvature_batch_size()));
  }
  const bool may_stop =
      debiasing != v1::DEBIASING_STRATEGY_NONE && debiasing != v1::DEBIASING_STRATEGY_CROSS_FIT;
  if (options.target_relative_standard_error() != 0 && !may_stop) {
    return FieldError("options.target_relative_standard_error",
                      absl::StrCat("expected 0 with ", DebiasingName(options),
                                   "; measuring can stop early with DEBIASING_STRATEGY_TWO_BATCH "
                                   "and DEBIASING_STRATEGY_FULL_PASS only; got ",
                                   options.target_relative_standard_error()));
  }
  if (options.fisher_samples() != 0 && options.curvature() != v1::CURVATURE_KIND_MC_FISHER) {
    return FieldError(
        "options.fisher_samples",
        absl::StrCat("expected 0 but with CURVATURE_KIND_MC_FISHER, got ", options.fisher_samples(),
                     " with ", NameOf(options.curvature(), v1::CURVATURE_KIND_GGN)));
  }
  return absl::OkStatus();
}

// A number that is given and a method that says where it comes from must agree.
template <typename Enum>
absl::Status CheckMethod(const std::string& number_field, bool number_given,
                         const std::string& method_field, Enum method, Enum given) {
  const std::string given_name = NameOf(given, given);
  if (method == given && !number_given) {
    return FieldError(number_field,
                      absl::StrCat("expected a number with ", given_name, ", got none"));
  }
  if (number_given && method != given && method != Enum()) {
    return FieldError(method_field, absl::StrCat("expected ", given_name, " or nothing with ",
                                                 number_field, ", got ", NameOf(method, given)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadFitOptions(const v1::FitOptions& options, FitRequest* fit) {
  absl::Status status = ReadWords(options, fit);
  status.Update(CheckSizes(options));
  status.Update(CheckNumbers(options));
  // What follows names enum values, so they must be known.
  if (!status.ok()) return status;
  status.Update(CheckStructure(options));
  status.Update(CheckUseless(options));
  status.Update(CheckParameters(options));
  status.Update(CheckMeasuring(options));
  status.Update(CheckMethod("options.prior_precision", options.has_prior_precision(),
                            "options.prior_method", options.prior_method(),
                            v1::PRIOR_METHOD_GIVEN));
  status.Update(CheckMethod("options.sigma_noise", options.has_sigma_noise(),
                            "options.noise_method", options.noise_method(),
                            v1::NOISE_METHOD_GIVEN));
  if (!status.ok()) return status;
  fit->rank = options.rank();
  fit->direction_batch_size = options.direction_batch_size();
  fit->curvature_batch_size = options.curvature_batch_size();
  fit->seed = options.seed();
  if (options.has_prior_precision()) fit->prior_precision = options.prior_precision();
  if (options.has_ood_prior_precision()) fit->ood_prior_precision = options.ood_prior_precision();
  fit->lanczos_tolerance = options.lanczos_tolerance();
  fit->max_products = options.max_products();
  fit->target_id_rate = options.target_id_rate();
  fit->max_validation_examples = options.max_validation_examples();
  fit->parameters.assign(options.parameters().begin(), options.parameters().end());
  fit->temperature = options.temperature();
  if (options.has_sigma_noise()) fit->sigma_noise = options.sigma_noise();
  fit->target_relative_standard_error = options.target_relative_standard_error();
  fit->variance_correction = options.variance_correction();
  fit->memory_limit_bytes = options.memory_limit_bytes();
  fit->fisher_samples = options.fisher_samples();
  fit->feature_layer = options.feature_layer();
  return absl::OkStatus();
}

void FillFitOptions(const PosteriorRecord& record, v1::FitOptions* options) {
  options->set_rank(static_cast<int32_t>(record.requested_rank));
  options->set_direction_batch_size(record.direction_batch_size);
  options->set_curvature_batch_size(record.curvature_batch_size);
  options->set_debiasing(EnumOf(kDebiasingWords, record.debiasing));
  options->set_residual(EnumOf(kResidualWords, record.residual_kind));
  options->set_seed(record.seed);
  options->set_prior_precision(record.prior_precision);
  options->set_ood_prior_precision(record.ood_prior_precision);
  options->set_lanczos_tolerance(record.lanczos_tolerance);
  options->set_max_products(static_cast<int32_t>(record.max_products));
  options->set_target_id_rate(record.target_id_rate);
  options->set_max_validation_examples(record.max_validation_examples);
  options->set_structure(EnumOf(kStructureWords, record.structure));
  options->set_curvature(EnumOf(kCurvatureWords, record.curvature));
  options->mutable_parameters()->Assign(record.parameters.begin(), record.parameters.end());
  options->set_kfac_eigenvalues(EnumOf(kKfacEigenvaluesWords, record.kfac_eigenvalues));
  options->set_prior_method(EnumOf(kPriorMethodWords, record.prior_method));
  options->set_temperature(record.temperature);
  options->set_noise_method(EnumOf(kNoiseMethodWords, record.noise_method));
  if (record.sigma_noise > 0) options->set_sigma_noise(record.sigma_noise);
  options->set_target_relative_standard_error(record.target_relative_standard_error);
  options->set_variance_correction(record.variance_correction);
  options->set_memory_limit_bytes(record.memory_limit_bytes);
  options->set_fisher_samples(static_cast<int32_t>(record.fisher_samples));
  options->set_feature_layer(record.feature_layer);
}

}  // namespace laplaced
