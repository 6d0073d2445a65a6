#include "server/rpc/inference_parameters.h"

#include <limits>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/model/field_error.h"
#include "server/rpc/enum_words.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;
using inference::InferParameter;

constexpr EnumWord<v1::LinkApprox> kLinkWords[] = {
    {v1::LINK_APPROX_PROBIT, "probit"},
    {v1::LINK_APPROX_MC, "mc"},
    {v1::LINK_APPROX_LAPLACE_BRIDGE, "laplace_bridge"},
    {v1::LINK_APPROX_MEAN_FIELD, "mean_field"}};
constexpr EnumWord<v1::VarianceMode> kModeWords[] = {{v1::VARIANCE_MODE_AUTO, "auto"},
                                                     {v1::VARIANCE_MODE_EXACT, "exact"},
                                                     {v1::VARIANCE_MODE_TOP_CLASSES, "top_classes"},
                                                     {v1::VARIANCE_MODE_SAMPLED, "sampled"},
                                                     {v1::VARIANCE_MODE_LAST_LAYER, "last_layer"}};

std::string Shown(const InferParameter& parameter) {
  switch (parameter.parameter_choice_case()) {
    case InferParameter::kBoolParam:
      return parameter.bool_param() ? "true" : "false";
    case InferParameter::kInt64Param:
      return absl::StrCat(parameter.int64_param());
    case InferParameter::kStringParam:
      return absl::StrCat("'", parameter.string_param(), "'");
    case InferParameter::kDoubleParam:
      return absl::StrCat(parameter.double_param());
    case InferParameter::kUint64Param:
      return absl::StrCat(parameter.uint64_param());
    case InferParameter::PARAMETER_CHOICE_NOT_SET:
      break;
  }
  return "nothing";
}

absl::StatusOr<std::string> Text(const std::string& name, const InferParameter& parameter) {
  if (parameter.has_string_param()) return parameter.string_param();
  return FieldError(ParameterField(name), absl::StrCat("expected a text, got ", Shown(parameter)));
}

absl::StatusOr<double> Number(const std::string& name, const InferParameter& parameter) {
  double value = 0;
  if (parameter.has_double_param()) return parameter.double_param();
  if (parameter.has_int64_param()) return static_cast<double>(parameter.int64_param());
  if (parameter.has_uint64_param()) return static_cast<double>(parameter.uint64_param());
  if (parameter.has_string_param() && absl::SimpleAtod(parameter.string_param(), &value)) {
    return value;
  }
  return FieldError(ParameterField(name),
                    absl::StrCat("expected a number, got ", Shown(parameter)));
}

absl::StatusOr<uint64_t> WholeNumber(const std::string& name, const InferParameter& parameter,
                                     uint64_t most) {
  uint64_t value = 0;
  bool whole = true;
  if (parameter.has_uint64_param()) {
    value = parameter.uint64_param();
  } else if (parameter.has_int64_param()) {
    whole = parameter.int64_param() >= 0;
    value = static_cast<uint64_t>(parameter.int64_param());
  } else {
    whole = parameter.has_string_param() && absl::SimpleAtoi(parameter.string_param(), &value);
  }
  if (whole && value <= most) return value;
  return FieldError(ParameterField(name), absl::StrCat("expected a whole number from 0 to ", most,
                                                       ", got ", Shown(parameter)));
}

template <typename Enum, size_t kSize>
absl::StatusOr<Enum> Word(const EnumWord<Enum> (&table)[kSize], const std::string& name,
                          const InferParameter& parameter) {
  const absl::StatusOr<std::string> text = Text(name, parameter);
  if (!text.ok()) return text.status();
  const Enum value = EnumOf(table, *text);
  if (value != Enum()) return value;
  std::vector<absl::string_view> words;
  for (const auto& entry : table) words.push_back(entry.word);
  return FieldError(ParameterField(name),
                    absl::StrCat("expected ", absl::StrJoin(words, " or "), ", got '", *text, "'"));
}

absl::StatusOr<Priority> ReadPriority(const std::string& name, const InferParameter& parameter) {
  if (parameter.has_string_param()) {
    if (parameter.string_param() == "interactive") return Priority::kInteractive;
    if (parameter.string_param() == "bulk") return Priority::kBulk;
  } else if (const auto number = WholeNumber(name, parameter, std::numeric_limits<uint64_t>::max());
             number.ok()) {
    return *number <= 1 ? Priority::kInteractive : Priority::kBulk;
  }
  return FieldError(ParameterField(name),
                    absl::StrCat("expected interactive, bulk or a number, got ", Shown(parameter)));
}

// Parameters of other servers that change nothing here.
bool IsIgnored(const std::string& name) {
  return name == "binary_data_output" || name == "content_type" || name == "headers" ||
         absl::StartsWith(name, "sequence_") || absl::StartsWith(name, "triton_");
}

absl::Status ReadParameter(const std::string& name, const InferParameter& parameter,
                           InferenceParameters& to) {
  v1::PredictRequest& options = to.options;
  constexpr uint64_t kMostInt32 = std::numeric_limits<int32_t>::max();
  const auto set = [](const auto& value, const auto& setter) {
    if (value.ok()) setter(*value);
    return value.status();
  };
  if (name == "prior_precision") {
    return set(Number(name, parameter), [&](double v) { options.set_prior_precision(v); });
  }
  if (name == "temperature") {
    return set(Number(name, parameter), [&](double v) { options.set_temperature(v); });
  }
  if (name == "link_approx") {
    return set(Word(kLinkWords, name, parameter),
               [&](v1::LinkApprox v) { options.set_link_approx(v); });
  }
  if (name == "variance_mode") {
    return set(Word(kModeWords, name, parameter),
               [&](v1::VarianceMode v) { options.set_variance_mode(v); });
  }
  if (name == "top_classes") {
    return set(WholeNumber(name, parameter, kMostInt32),
               [&](uint64_t v) { options.set_top_classes(static_cast<int32_t>(v)); });
  }
  if (name == "samples") {
    return set(WholeNumber(name, parameter, kMostInt32),
               [&](uint64_t v) { options.set_samples(static_cast<int32_t>(v)); });
  }
  if (name == "seed") {
    return set(WholeNumber(name, parameter, std::numeric_limits<uint64_t>::max()),
               [&](uint64_t v) { options.set_seed(v); });
  }
  if (name == "ood_score") {
    return set(Text(name, parameter), [&](const std::string& v) { options.add_ood_scores(v); });
  }
  if (name == "priority") {
    return set(ReadPriority(name, parameter), [&](Priority v) { to.priority = v; });
  }
  if (name == "timeout") {
    constexpr uint64_t kDayMicros = 24ull * 3600 * 1000000;
    return set(WholeNumber(name, parameter, kDayMicros), [&](uint64_t v) {
      // As in Triton, 0 is none.
      if (v > 0) to.timeout = std::chrono::microseconds(v);
    });
  }
  if (IsIgnored(name)) return absl::OkStatus();
  return FieldError(ParameterField(name),
                    "is no option; expected prior_precision, temperature, link_approx, "
                    "variance_mode, top_classes, samples, seed, ood_score, priority or timeout");
}

}  // namespace

std::string ParameterField(const std::string& name) { return absl::StrCat("parameters.", name); }

absl::StatusOr<InferenceParameters> ReadInferenceParameters(const InferParameters& parameters) {
  InferenceParameters result;
  for (const auto& [name, parameter] : parameters) {
    const absl::Status status = ReadParameter(name, parameter, result);
    if (!status.ok()) return status;
  }
  return result;
}

absl::Status CheckTensorParameters(const std::string& field, const InferParameters& parameters) {
  for (const auto& [name, parameter] : parameters) {
    if (IsIgnored(name) || name == "binary_data" || name == "binary_data_size") continue;
    return FieldError(
        absl::StrCat(field, ".", name),
        absl::StrCat("inputs and outputs have no options here, got ", Shown(parameter),
                     "; elements come in contents or raw_input_contents and go back "
                     "the same way"));
  }
  return absl::OkStatus();
}

}  // namespace laplaced
