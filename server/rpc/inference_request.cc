#include "server/rpc/inference_request.h"

#include <laplace/v1/prediction.pb.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/model/field_error.h"
#include "server/rpc/inference_parameters.h"
#include "server/rpc/request_checks.h"
#include "server/rpc/request_codec.h"
#include "server/rpc/status_mapping.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;
using inference::InferTensorContents;
using inference::ModelInferRequest;

constexpr int kMaxDimensions = 16;

constexpr const char* kOutputs[] = {kMeanOutput,
                                    kVarianceOutput,
                                    kEpistemicOutput,
                                    kAleatoricOutput,
                                    kInstanceScoreOutput,
                                    kIsOutlierOutput,
                                    kMapMeanOutput,
                                    kFunctionalMeanOutput,
                                    kFunctionalCovarianceOutput,
                                    kVarianceClassesOutput,
                                    kLeftOutProbabilityOutput,
                                    kLeftOutBoundOutput};

absl::Status ReadOutputs(const ModelInferRequest& request, v1::PredictRequest& options,
                         InferenceRequest& to) {
  for (int i = 0; i < request.outputs_size(); ++i) {
    const std::string& name = request.outputs(i).name();
    const absl::Status parameters = CheckTensorParameters(
        absl::StrCat("outputs[", i, "].parameters"), request.outputs(i).parameters());
    if (!parameters.ok()) return parameters;
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
  return RenameField(status, ParameterField(field));
}

absl::Status ReadOptions(const ModelInferRequest& request, InferenceRequest& to) {
  absl::StatusOr<InferenceParameters> parameters = ReadInferenceParameters(request.parameters());
  if (!parameters.ok()) return parameters.status();
  to.priority = parameters->priority;
  to.timeout = parameters->timeout;
  v1::PredictRequest& message = parameters->options;
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
      return FieldError(ParameterField(name),
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

// The repeated field that the protocol has for elements of a type.
struct TypedField {
  const char* name;
  int64_t count;
  const void* data;
};

TypedField FieldFor(DType dtype, const InferTensorContents& contents) {
  switch (dtype) {
    case DType::kFloat32:
      return {"fp32_contents", contents.fp32_contents_size(), contents.fp32_contents().data()};
    case DType::kFloat64:
      return {"fp64_contents", contents.fp64_contents_size(), contents.fp64_contents().data()};
    default:
      return {"uint_contents", contents.uint_contents_size(), contents.uint_contents().data()};
  }
}

// UINT8 elements travel as numbers of 32 bits, so that these alone have to be copied.
absl::Status NarrowContents(const InferTensorContents& contents, InferenceRequest& to) {
  constexpr uint32_t kMost = std::numeric_limits<uint8_t>::max();
  const auto& values = contents.uint_contents();
  to.bytes = std::make_unique<uint8_t[]>(static_cast<size_t>(values.size()));
  for (int i = 0; i < values.size(); ++i) {
    if (values.Get(i) > kMost) {
      return FieldError(
          absl::StrCat("inputs[0].contents.uint_contents[", i, "]"),
          absl::StrCat("expected 0 to ", kMost, " for the datatype UINT8, got ", values.Get(i)));
    }
    to.bytes[static_cast<size_t>(i)] = static_cast<uint8_t>(values.Get(i));
  }
  to.inputs.data = to.bytes.get();
  return absl::OkStatus();
}

absl::Status ReadContents(const InferTensorContents& contents, int64_t elements,
                          InferenceRequest& to) {
  const std::string field = "inputs[0].contents";
  const TypedField typed = FieldFor(to.inputs.dtype, contents);
  if (ContentsInUse(contents) > (typed.count > 0 ? 1 : 0)) {
    return FieldError(field,
                      absl::StrCat("expected elements in ", typed.name, " and nowhere else"));
  }
  if (typed.count != elements) {
    return WrongCount(absl::StrCat(field, ".", typed.name), elements, typed.count, "values",
                      to.inputs.shape);
  }
  if (to.inputs.dtype == DType::kUint8) return NarrowContents(contents, to);
  to.inputs.data = typed.data;
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
  if (!status.ok()) return status;
  return result;
}

absl::Status ReadInferenceInputs(const ModelInferRequest& request, InferenceRequest& to) {
  if (request.inputs_size() != 1) {
    return FieldError("inputs", absl::StrCat("expected one input, got ", request.inputs_size()));
  }
  const auto& input = request.inputs(0);
  const absl::Status parameters = CheckTensorParameters("inputs[0].parameters", input.parameters());
  if (!parameters.ok()) return parameters;
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
  if (!to.raw) return ReadContents(input.contents(), *elements, to);
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

}  // namespace laplaced
