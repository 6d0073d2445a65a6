// Plain values that mirror the API's models, data sets, predictions and health; fits and posteriors
// are in fit_types.h.
//
// Field names and meanings are those of proto/laplace/v1, where units, shapes and signs are
// documented. B is the number of examples in a request, C the number of outputs. Flat vectors are
// row-major. Nothing here is synchronised.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/optional.h"
#include "formats/array.h"

namespace laplace::client {

using Array = ::laplaced::Array;
using DType = ::laplaced::DType;

enum class Likelihood { kUnspecified, kCategorical, kGaussian, kBernoulli };
enum class ModelState { kUnspecified, kAvailable, kReady, kFailed };
enum class LinkApprox { kDefault, kProbit, kMonteCarlo };

// A model of the server. Version 0 in calls means the highest one: loaded, or in the repository for
// LoadModel.
struct Model {
  std::string name;
  int64_t version = 0;
  ModelState state = ModelState::kUnspecified;
  std::string state_message;
  Likelihood likelihood = Likelihood::kUnspecified;
  std::vector<int64_t> input_shape;  // one example
  DType input_dtype = DType::kFloat32;
  bool accepts_uint8 = false;
  int64_t n_outputs = 0;     // C
  int64_t n_parameters = 0;  // P
  std::vector<std::string> class_names;
  int64_t n_data = 0;
  double weight_decay = 0;
  double bias_weight_decay = 0;
  double sigma_noise = 0;
  std::string checkpoint_sha256;
  std::string active_posterior_id;
  std::vector<std::string> captured_parameters;
  std::vector<std::string> generic_parameters;
  std::vector<std::string> last_layer_parameters;
  std::string description;
};

struct Dataset {
  std::string id;
  int64_t n_rows = 0;
  DType input_dtype = DType::kFloat32;
  std::vector<int64_t> example_shape;
  DType target_dtype = DType::kInt64;
  std::vector<int64_t> target_shape;
};

// Requests may be written in braces; what is left out keeps its default.
struct PredictRequest {
  std::string model = {};
  int64_t version = 0;
  Array inputs = {};  // [B, input_shape...]
  absl::optional<double> prior_precision = {};
  LinkApprox link_approx = LinkApprox::kDefault;
  std::vector<std::string> ood_scores = {};  // empty: the posterior's default score
  bool return_covariance = false;
};

struct ScoreRequest {
  std::string model = {};
  int64_t version = 0;
  Array inputs = {};                         // [B, input_shape...]
  std::vector<std::string> ood_scores = {};  // empty: the posterior's default score
};

// Seconds spent in the server.
struct Timing {
  double queue_seconds = 0;
  double compute_seconds = 0;
};

// Higher values are more out-of-distribution.
struct OodScore {
  std::string name;
  std::vector<double> values;        // [B]
  absl::optional<double> threshold;  // flagged above it; absent without calibration data
  std::vector<bool> is_ood;          // [B], empty without a threshold
  double target_id_rate = 0;
};

struct Prediction {
  std::string model;
  int64_t version = 0;
  std::string posterior_id;
  int64_t batch = 0;                         // B
  int64_t outputs = 0;                       // C
  std::vector<float> mean;                   // [B, C]
  std::vector<float> map_mean;               // [B, C], the plain network
  std::vector<float> functional_mean;        // [B, C]
  std::vector<float> functional_variance;    // [B, C]
  std::vector<float> functional_covariance;  // [B, C, C], empty unless asked for
  std::vector<float> epistemic;              // [B] categorical, [B, C] otherwise
  std::vector<float> aleatoric;              // likewise
  std::vector<OodScore> ood_scores;
  double prior_precision = 0;
  Timing timing;
};

struct Scores {
  std::string model;
  int64_t version = 0;
  std::string posterior_id;
  std::vector<OodScore> ood_scores;
  Timing timing;
};

enum class HealthState { kUnknown, kServing, kNotServing };

}  // namespace laplace::client
