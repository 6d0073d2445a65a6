// Requests of the Open Inference Protocol as the server's own values.
//
// Everything that can be told without the model is checked here. Errors are INVALID_ARGUMENT with
// the field ("inputs[0].shape", "parameters.seed"), what was expected and what came. Free functions
// on values; thread-safe.
#pragma once

#include <inference/grpc_predict_v2.pb.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "absl/types/variant.h"
#include "formats/safetensors.h"
#include "server/serving/engine_types.h"
#include "server/serving/pending_request.h"

namespace laplaced {

// Names of outputs, in the order of "all of them".
inline constexpr char kMeanOutput[] = "mean";
inline constexpr char kVarianceOutput[] = "variance";
inline constexpr char kEpistemicOutput[] = "epistemic";
inline constexpr char kAleatoricOutput[] = "aleatoric";
inline constexpr char kInstanceScoreOutput[] = "instance_score";
inline constexpr char kIsOutlierOutput[] = "is_outlier";
// Only when asked for.
inline constexpr char kMapMeanOutput[] = "map_mean";
inline constexpr char kFunctionalMeanOutput[] = "functional_mean";
inline constexpr char kFunctionalCovarianceOutput[] = "functional_covariance";
// Likewise, but the first is among "all of them" in the mode TOP_CLASSES.
inline constexpr char kVarianceClassesOutput[] = "variance_outputs";
inline constexpr char kLeftOutProbabilityOutput[] = "left_out_probability";
inline constexpr char kLeftOutBoundOutput[] = "left_out_bound";

struct InferenceRequest {
  std::string model;
  int64_t version = 0;
  ArrayView inputs;                  // aliases the message, or `bytes`
  std::unique_ptr<uint8_t[]> bytes;  // UINT8 elements that came in uint_contents
  std::vector<std::string> outputs;  // as asked for; empty: all
  // ScoreOptions if nothing but the score is asked for.
  absl::variant<PredictOptions, ScoreOptions> options;
  Priority priority = Priority::kInteractive;
  absl::optional<std::chrono::microseconds> timeout;
  bool raw = false;  // answer with raw contents, as the request came
};

// Without inputs, which may be large: whether there is room for the request should be asked first.
absl::StatusOr<InferenceRequest> ReadInferenceRequest(const inference::ModelInferRequest& request);

// Sets `inputs`, `bytes` and `raw`. Nothing is allocated before sizes are known to be right.
absl::Status ReadInferenceInputs(const inference::ModelInferRequest& request, InferenceRequest& to);

// "" is 0, the highest version.
absl::StatusOr<int64_t> ReadVersion(const std::string& field, const std::string& text);

}  // namespace laplaced
