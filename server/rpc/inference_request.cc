#include "server/rpc/inference_request.h"

#include <laplace/v1/prediction.pb.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/model/field_error.h"
#include "server/rpc/enum_words.h"
#include "server/rpc/request_checks.h"
#include "server/rpc/request_codec.h"
#include "server/rpc/status_mapping.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;
using inference::InferParameter;
using inference::InferTensorContents;
using inference::ModelInferRequest;

constexpr int kMaxDimensions = 16;

constexpr const char* kOutputs[] = {
    kMeanOutput,      kVarianceOutput,       kEpistemicOutput,
    kAleatoricOutput, kInstanceScoreOutput,  kIsOutlierOutput,
    kMapMeanOutput,   kFunctionalMeanOutput, kFunctionalCovarianceOutput};

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

std::string Path(const std::string& name) { return absl::StrCat("parameters.", name); }

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
  return FieldError(Path(name), absl::StrCat("expected a text, got ", Shown(parameter)));
}

absl::StatusOr<double> Number(const std::string& name, const InferParameter& parameter) {
  double value = 0;
  if (parameter.has_double_param()) return parameter.double_param();
  if (parameter.has_int64_param()) return static_cast<double>(parameter.int64_param());
  if (parameter.has_uint64_param()) return static_cast<double>(parameter.uint64_param());
  if (parameter.has_string_param() && absl::SimpleAtod(parameter.string_param(), &value)) {
    return value;
  }
  return FieldError(Path(name), absl::StrCat("expected a number, got ", Shown(parameter)));
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
  return FieldError(Path(name), absl::StrCat("expected a whole number from 0 to ", most, ", got ",
                                             Shown(parameter)));
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
  return FieldError(Path(name),
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
  return FieldError(Path(name),
                    absl::StrCat("expected interactive, bulk or a number, got ", Shown(parameter)));
}

// Parameters of other servers that change nothing here.
bool IsIgnored(const std::string& name) {
  return name == "binary_data_output" || name == "content_type" || name == "headers" ||
         absl::StartsWith(name, "sequence_") || absl::StartsWith(name, "triton_");
}

// One parameter into the options (or into what is beside them).
absl::Status ReadParameter(const std::string& name, const InferParameter& parameter,
                           v1::PredictRequest& options, InferenceRequest& to) {
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
  return FieldError(Path(name),
                    "is no option; expected prior_precision, temperature, link_approx, "
                    "variance_mode, top_classes, samples, seed, ood_score, priority or timeout");
}

absl::Status ReadOutputs(const ModelInferRequest& request, v1::PredictRequest& options,
                         InferenceRequest& to) {
  for (int i = 0; i < request.outputs_size(); ++i) {
    const std::string& name = request.outputs(i).name();
    const std::string field = absl::StrCat("outputs[", i, "].name");
    if (std::find(std::begin(kOutputs), std::end(kOutputs), name) == std::end(kOutputs)) {
      return FieldError(
          field, absl::StrCat("expected ", absl::StrJoin(kOutputs, ", "), ", got '", name, "'"));
    }
    if (std::find(to.outputs.begin(), to.outputs.end(), name) != to.outputs.end()) {
      return FieldError(field, absl::StrCat("'", name, "' is asked for twice"));
    }
    if (name == kFunctionalCovarianceOutput) options.set_return_covariance(true);
    to.outputs.push_back(name);
  }
  return absl::OkStatus();
}

bool OnlyScores(const std::vector<std::string>& outputs) {
  return !outputs.empty() && std::all_of(outputs.begin(), outputs.end(), [](const auto& name) {
    return name == kInstanceScoreOutput || name == kIsOutlierOutput;
  });
}

// INVALID_ARGUMENT about an option of PredictRequest is about the parameter of that name here.
absl::Status AboutParameter(const absl::Status& status) {
  std::string field = FieldOf(status);
  if (field.empty()) return status;
  if (field == "ood_scores") field = "ood_score";
  return RenameField(status, Path(field));
}

absl::Status ReadOptions(const ModelInferRequest& request, InferenceRequest& to) {
  v1::PredictRequest message;
  for (const auto& [name, parameter] : request.parameters()) {
    const absl::Status status = ReadParameter(name, parameter, message, to);
    if (!status.ok()) return status;
  }
  const absl::Status outputs = ReadOutputs(request, message, to);
  if (!outputs.ok()) return outputs;
  if (!OnlyScores(to.outputs)) {
    auto options = ToPredictOptions(message);
    if (!options.ok()) return AboutParameter(options.status());
    to.options = *std::move(options);
    return absl::OkStatus();
  }
  for (const char* name : {"prior_precision", "temperature", "link_approx", "top_classes"}) {
    if (request.parameters().count(name) > 0) {
      return FieldError(Path(name),
                        "has no effect on instance_score and is_outlier, and nothing "
                        "else is asked for");
    }
  }
  v1::ScoreRequest score;
  *score.mutable_ood_scores() = message.ood_scores();
  score.set_variance_mode(message.variance_mode());
  score.set_samples(message.samples());
  score.set_seed(message.seed());
  auto options = ToScoreOptions(score);
  if (!options.ok()) return AboutParameter(options.status());
  to.options = *std::move(options);
  return absl::OkStatus();
}

absl::StatusOr<DType> ReadDatatype(const std::string& field, const std::string& datatype) {
  if (datatype == "FP32") return DType::kFloat32;
  if (datatype == "FP64") return DType::kFloat64;
  if (datatype == "UINT8") return DType::kUint8;
  return FieldError(field, absl::StrCat("expected FP32, FP64 or UINT8, got '", datatype, "'"));
}

absl::Status WrongCount(const std::string& field, int64_t expected, int64_t got, const char* unit,
                        const std::vector<int64_t>& shape) {
  return FieldError(field, absl::StrCat("expected ", expected, " ", unit, " for shape ",
                                        ShapeString(shape), ", got ", got));
}

int ContentsInUse(const InferTensorContents& c) {
  return (c.bool_contents_size() > 0) + (c.int_contents_size() > 0) +
         (c.int64_contents_size() > 0) + (c.uint_contents_size() > 0) +
         (c.uint64_contents_size() > 0) + (c.fp32_contents_size() > 0) +
         (c.fp64_contents_size() > 0) + (c.bytes_contents_size() > 0);
}

// Elements in the typed field of `dtype`, in place; UINT8 has none of its own size.
absl::Status ViewContents(const InferTensorContents& contents, ArrayView& view, int64_t elements) {
  const std::string field = "inputs[0].contents";
  if (view.dtype == DType::kUint8) {
    return FieldError(field,
                      "UINT8 elements are taken from raw_input_contents, where they need a quarter "
                      "of the space");
  }
  const bool single = view.dtype == DType::kFloat32;
  const int64_t count = single ? contents.fp32_contents_size() : contents.fp64_contents_size();
  const std::string values = absl::StrCat(field, single ? ".fp32_contents" : ".fp64_contents");
  if (ContentsInUse(contents) > (count > 0 ? 1 : 0)) {
    return FieldError(
        field, absl::StrCat("expected elements in ", single ? "fp32_contents" : "fp64_contents",
                            " and nowhere else"));
  }
  if (count != elements) return WrongCount(values, elements, count, "values", view.shape);
  view.data = single ? static_cast<const void*>(contents.fp32_contents().data())
                     : static_cast<const void*>(contents.fp64_contents().data());
  return absl::OkStatus();
}

absl::Status ReadInputs(const ModelInferRequest& request, InferenceRequest& to) {
  if (request.inputs_size() != 1) {
    return FieldError("inputs", absl::StrCat("expected one input, got ", request.inputs_size()));
  }
  const auto& input = request.inputs(0);
  const auto dtype = ReadDatatype("inputs[0].datatype", input.datatype());
  if (!dtype.ok()) return dtype.status();
  const std::string shape_field = "inputs[0].shape";
  if (input.shape_size() < 1 || input.shape_size() > kMaxDimensions) {
    return FieldError(shape_field, absl::StrCat("expected 1 to ", kMaxDimensions,
                                                " dimensions, got ", input.shape_size()));
  }
  ArrayView& view = to.inputs;
  view.dtype = *dtype;
  view.shape.assign(input.shape().begin(), input.shape().end());
  for (const int64_t size : view.shape) {
    if (size >= 1) continue;
    return FieldError(shape_field,
                      absl::StrCat("expected sizes of at least 1, got ", ShapeString(view.shape)));
  }
  const absl::StatusOr<int64_t> elements = NumElements(view.shape);
  if (!elements.ok() || *elements > (int64_t{1} << 62) / ElementSize(view.dtype)) {
    return FieldError(shape_field, absl::StrCat("expected a shape whose elements can be counted, ",
                                                "got ", ShapeString(view.shape)));
  }
  to.raw = request.raw_input_contents_size() > 0;
  if (!to.raw) return ViewContents(input.contents(), view, *elements);
  if (request.raw_input_contents_size() != 1) {
    return FieldError("raw_input_contents",
                      absl::StrCat("expected one entry for the one input, got ",
                                   request.raw_input_contents_size()));
  }
  if (input.has_contents()) {
    return FieldError("inputs[0].contents",
                      "expected either contents or raw_input_contents, got both");
  }
  const std::string& bytes = request.raw_input_contents(0);
  const int64_t expected = *elements * ElementSize(view.dtype);
  if (static_cast<int64_t>(bytes.size()) != expected) {
    return WrongCount("raw_input_contents[0]", expected, static_cast<int64_t>(bytes.size()),
                      "bytes", view.shape);
  }
  view.data = bytes.data();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<int64_t> ReadVersion(const std::string& field, const std::string& text) {
  int64_t version = 0;
  if (text.empty()) return version;
  if (absl::SimpleAtoi(text, &version) && version > 0) return version;
  return FieldError(field, absl::StrCat("expected a number from 1 or nothing, got '", text, "'"));
}

absl::StatusOr<InferenceRequest> ReadInferenceRequest(const ModelInferRequest& request) {
  InferenceRequest result;
  result.model = request.model_name();
  const absl::StatusOr<int64_t> version = ReadVersion("model_version", request.model_version());
  if (!version.ok()) return version.status();
  result.version = *version;
  absl::Status status = CheckModel("model_name", request.model_name(), *version);
  if (status.ok()) status = ReadOptions(request, result);
  if (status.ok()) status = ReadInputs(request, result);
  if (!status.ok()) return status;
  return result;
}

}  // namespace laplaced
