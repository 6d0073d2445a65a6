// The metrics that fit a model's likelihood, from its predictions and the truth. Free functions;
// thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/metrics.h"
#include "client/cpp/types.h"

namespace laplace::cli {

// What is true of N examples; one of these, by likelihood.
struct Truth {
  std::vector<int64_t> classes;  // categorical: [N]
  std::vector<float> labels;     // Bernoulli: [N, C] of 0 and 1
  std::vector<double> targets;   // Gaussian: [N, C]
};

// INVALID_ARGUMENT says what the likelihood takes and what the array holds.
absl::StatusOr<Truth> ReadTruth(const client::Model& model, client::Array targets);

// Metrics of the plain network (`map_mean`; its variance is the noise alone) and of the posterior
// predictive (`mean`; epistemic + aleatoric variance). The same metrics in both, but for those that
// need a variance that is not there.
std::vector<ExampleMetric> PlainNetworkMetrics(const client::Model& model,
                                               const client::Prediction& prediction,
                                               const Truth& truth);
std::vector<ExampleMetric> LaplaceMetrics(const client::Model& model,
                                          const client::Prediction& prediction, const Truth& truth);

}  // namespace laplace::cli
