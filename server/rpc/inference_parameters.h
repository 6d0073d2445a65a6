// Parameters of the Open Inference Protocol as options.
//
// Errors are INVALID_ARGUMENT with the parameter ("parameters.seed"), what was expected and what
// came. Free functions on values; thread-safe.
#pragma once

#include <inference/grpc_predict_v2.pb.h>
#include <laplace/v1/prediction.pb.h>

#include <chrono>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "server/serving/pending_request.h"

namespace laplaced {

using InferParameters = google::protobuf::Map<std::string, inference::InferParameter>;

struct InferenceParameters {
  // Options alone, their values not checked against each other.
  laplace::v1::PredictRequest options;
  Priority priority = Priority::kInteractive;
  absl::optional<std::chrono::microseconds> timeout;
};

// Those of a request.
absl::StatusOr<InferenceParameters> ReadInferenceParameters(const InferParameters& parameters);

// Those of one input or output, `field` ("inputs[0].parameters"). None has a meaning here: those
// that would change what elements are or where they lie (shared memory, classification) are
// refused, because their client would read something else than was written.
absl::Status CheckTensorParameters(const std::string& field, const InferParameters& parameters);

// "parameters.<name>".
std::string ParameterField(const std::string& name);

}  // namespace laplaced
