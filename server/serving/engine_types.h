// What goes into and comes out of a served model: plain values, no LibTorch, no gRPC.
//
// B is the number of examples in a request, C the number of outputs, both as in the API. Arrays are
// row-major.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/optional.h"
#include "formats/safetensors.h"

namespace laplaced {

enum class LikelihoodKind { kCategorical, kGaussian, kBernoulli };
enum class LinkApprox { kProbit, kMonteCarlo };

enum class ModelState { kAvailable, kReady, kFailed };

// What GetModel shows. Fields from the manifest are empty or zero while a model is only available
// or failed.
struct ModelInfo {
  std::string name;
  int64_t version = 0;
  ModelState state = ModelState::kAvailable;
  std::string state_message;
  LikelihoodKind likelihood = LikelihoodKind::kCategorical;
  std::vector<int64_t> input_shape;
  DType input_dtype = DType::kFloat32;
  bool accepts_uint8 = false;
  int64_t n_outputs = 0;
  int64_t n_parameters = 0;
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

struct PredictOptions {
  absl::optional<double> prior_precision;
  LinkApprox link_approx = LinkApprox::kProbit;
  std::vector<std::string> ood_scores;  // empty: the posterior's default
  bool return_covariance = false;
};

struct ScoreOptions {
  std::vector<std::string> ood_scores;  // empty: the posterior's default
};

// One score for all B examples; higher is more out-of-distribution.
struct ScoreValues {
  std::string name;
  std::vector<double> values;
  absl::optional<double> threshold;
  double target_id_rate = 0;
};

struct Prediction {
  std::string posterior_id;
  int64_t batch = 0;    // B
  int64_t outputs = 0;  // C
  LikelihoodKind likelihood = LikelihoodKind::kCategorical;
  double prior_precision = 0;
  std::vector<float> mean;                   // [B, C]
  std::vector<float> map_mean;               // [B, C]
  std::vector<float> functional_mean;        // [B, C]
  std::vector<float> functional_variance;    // [B, C]
  std::vector<float> functional_covariance;  // [B, C, C], if asked for
  std::vector<float> epistemic;              // [B] categorical, [B, C] otherwise
  std::vector<float> aleatoric;              // likewise
  std::vector<ScoreValues> scores;
};

struct Scores {
  std::string posterior_id;
  std::vector<ScoreValues> scores;
};

}  // namespace laplaced
