#include "server/rpc/fit_options_codec.h"

#include <google/protobuf/descriptor.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/model/field_error.h"
#include "server/rpc/enum_words.h"
#include "server/rpc/request_checks.h"
#include "server/serving/fit_request_check.h"

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
  status = CheckFitRequest(*fit);
  status.Update(CheckMethod("options.prior_precision", options.has_prior_precision(),
                            "options.prior_method", options.prior_method(),
                            v1::PRIOR_METHOD_GIVEN));
  status.Update(CheckMethod("options.sigma_noise", options.has_sigma_noise(),
                            "options.noise_method", options.noise_method(),
                            v1::NOISE_METHOD_GIVEN));
  return status;
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
