// What goes into and comes out of a served model: plain values, no LibTorch, no gRPC.
//
// B is the number of examples in a request, C the number of outputs, both as in the API. Arrays are
// row-major.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "absl/types/optional.h"
#include "formats/safetensors.h"
#include "server/laplace/variance_mode.h"
#include "server/registry/posterior_record.h"

namespace laplaced {

enum class LikelihoodKind { kCategorical, kGaussian, kBernoulli };
enum class LinkApprox { kProbit, kMonteCarlo, kLaplaceBridge, kMeanField };

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
  bool lacks_posterior = false;  // one is active in the repository, and cannot be used
  std::vector<std::string> captured_parameters;
  std::vector<std::string> generic_parameters;
  std::vector<std::string> last_layer_parameters;
  std::string description;
  int64_t memory_bytes = 0;  // of the files of checkpoint and active posterior
};

struct PredictOptions {
  absl::optional<double> prior_precision;
  absl::optional<double> temperature;
  LinkApprox link_approx = LinkApprox::kProbit;
  std::vector<std::string> ood_scores;  // empty: the posterior's default
  bool return_covariance = false;
  bool return_joint_covariance = false;
  int64_t return_samples = 0;  // S
  VarianceMode variance_mode = VarianceMode::kAuto;
  int64_t top_classes = 0;  // m; 0: the default
  int64_t samples = 0;      // s; 0: the default
  uint64_t seed = 0;        // of s and S

  friend bool operator==(const PredictOptions& a, const PredictOptions& b) {
    const auto all = [](const PredictOptions& o) {
      return std::tie(o.prior_precision, o.temperature, o.link_approx, o.ood_scores,
                      o.return_covariance, o.return_joint_covariance, o.return_samples,
                      o.variance_mode, o.top_classes, o.samples, o.seed);
    };
    return all(a) == all(b);
  }
};

struct ScoreOptions {
  std::vector<std::string> ood_scores;  // empty: the posterior's default
  VarianceMode variance_mode = VarianceMode::kAuto;
  int64_t samples = 0;
  uint64_t seed = 0;

  friend bool operator==(const ScoreOptions& a, const ScoreOptions& b) {
    return std::tie(a.ood_scores, a.variance_mode, a.samples, a.seed) ==
           std::tie(b.ood_scores, b.variance_mode, b.samples, b.seed);
  }
};

// How the variances of an answer were computed. kAuto: none were.
struct VarianceReport {
  VarianceMode mode = VarianceMode::kAuto;
  int64_t top_classes = 0;     // m, TOP_CLASSES only
  int64_t samples = 0;         // s, SAMPLED only
  double relative_error = 0;   // of the variances, SAMPLED only
  double estimated_flops = 0;  // by the cost model (variance_mode.h)
};

// How a request may be computed beside others.
struct Batching {
  VarianceReport variance;  // what the whole request would report
  // Rows that are worth computing together at most, a power of two.
  int64_t rows = 1;
  // The answer of a row depends on nothing but the row and the options, so that rows may be
  // computed apart, and together with those of other requests with the same options.
  bool divisible = false;
};

// One score for all B examples; higher is more out-of-distribution.
struct ScoreValues {
  std::string name;
  std::vector<double> values;
  // What calibration found for this score; null: no verdict.
  std::shared_ptr<const OodThresholdRecord> calibration;
};

// Not `value > threshold`: a NaN must be flagged, because nothing speaks for its example.
inline bool IsOod(double value, double threshold) { return !(value <= threshold); }

struct Prediction {
  std::string posterior_id;
  int64_t batch = 0;    // B
  int64_t outputs = 0;  // C
  LikelihoodKind likelihood = LikelihoodKind::kCategorical;
  double prior_precision = 0;
  double temperature = 0;
  VarianceReport variance;
  std::vector<float> mean;             // [B, C]
  std::vector<float> map_mean;         // [B, C]
  std::vector<float> functional_mean;  // [B, C]
  // R is m in TOP_CLASSES and C otherwise.
  std::vector<float> functional_variance;    // [B, R]
  std::vector<float> functional_covariance;  // [B, R, R], if asked for
  std::vector<int64_t> variance_outputs;     // [B, m], TOP_CLASSES only, as the next two
  std::vector<float> left_out_probability;   // [B]
  std::vector<float> left_out_bound;         // [B]
  std::vector<float> joint_covariance;       // [B, C, B, C], if asked for
  std::vector<float> function_samples;       // [S, B, C], if asked for
  std::vector<float> epistemic;              // [B] categorical, [B, C] otherwise
  std::vector<float> aleatoric;              // likewise
  std::vector<ScoreValues> scores;
};

struct Scores {
  std::string posterior_id;
  std::vector<ScoreValues> scores;
  VarianceReport variance;
};

}  // namespace laplaced
