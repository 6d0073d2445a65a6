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
enum class LinkApprox { kDefault, kProbit, kMonteCarlo, kLaplaceBridge, kMeanField };
// kDefault of a request is kAuto; of an answer, that no variance was needed.
enum class VarianceMode { kDefault, kAuto, kExact, kTopClasses, kSampled, kLastLayer };
// kDefault is interactive for Predict and Score, and bulk for the rows of a stream.
enum class Priority { kDefault, kInteractive, kBulk };

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
  int64_t memory_bytes = 0;  // of checkpoint and active posterior
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
  VarianceMode variance_mode = VarianceMode::kDefault;
  int32_t top_classes = 0;  // m of kTopClasses; 0: 16
  int32_t samples = 0;      // s of kSampled; 0: 64
  uint64_t seed = 0;        // of the functions that kSampled and return_samples draw
  absl::optional<double> temperature = {};
  bool return_joint_covariance = false;
  int32_t return_samples = 0;  // S, functions drawn from the posterior
  Priority priority = Priority::kDefault;
};

struct ScoreRequest {
  std::string model = {};
  int64_t version = 0;
  Array inputs = {};                         // [B, input_shape...]
  std::vector<std::string> ood_scores = {};  // empty: the posterior's default score
  VarianceMode variance_mode = VarianceMode::kDefault;
  int32_t samples = 0;
  uint64_t seed = 0;
  Priority priority = Priority::kDefault;
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
  absl::optional<double> threshold;  // flagged above it; absent without calibration data, or in
                                     // another mode than it was calibrated in
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
  int64_t variance_width = 0;                // R: m in kTopClasses, C otherwise
  std::vector<float> functional_variance;    // [B, R]
  std::vector<float> functional_covariance;  // [B, R, R], empty unless asked for
  std::vector<float> epistemic;              // [B] categorical, [B, C] otherwise
  std::vector<float> aleatoric;              // likewise
  std::vector<OodScore> ood_scores;
  double prior_precision = 0;
  double temperature = 0;
  VarianceMode variance_mode = VarianceMode::kDefault;  // the one that ran
  int32_t top_classes = 0;                              // m
  int32_t samples = 0;                                  // s
  double variance_relative_error = 0;                   // kSampled only
  double estimated_flops = 0;
  // kTopClasses only: which outputs the variances belong to, [B, R], what is left out, [B], and how
  // much that is at the most, [B].
  std::vector<int64_t> variance_outputs;
  std::vector<float> left_out_probability;
  std::vector<float> left_out_bound;
  std::vector<float> joint_covariance;  // [B, C, B, C], empty unless asked for
  std::vector<float> function_samples;  // [S, B, C], empty unless asked for
  Timing timing;
};

struct Scores {
  std::string model;
  int64_t version = 0;
  std::string posterior_id;
  std::vector<OodScore> ood_scores;
  VarianceMode variance_mode = VarianceMode::kDefault;
  int32_t samples = 0;
  double estimated_flops = 0;
  Timing timing;
};

enum class HealthState { kUnknown, kServing, kNotServing };

}  // namespace laplace::client
