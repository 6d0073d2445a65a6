// Decides how a request's variances are computed, and refuses what goes together badly.
//
// Pure functions on values; thread-safe.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/laplace/variance_mode.h"
#include "server/model/likelihood.h"
#include "server/serving/engine_types.h"
#include "server/serving/loaded_posterior.h"

namespace laplaced {

// What the cost model knows of a network, and of a posterior over its uncertain parameters; batch
// and precisions are the request's to set. `last_layer` says which parameter tensors belong to the
// last layer; empty if none is uncertain.
VarianceProblem ProblemOf(const Network& network, const CapturePlan& plan);
VarianceProblem ProblemOf(const LoadedPosterior& posterior, const std::vector<bool>& last_layer);

// What is to be computed.
struct VarianceNeeds {
  Likelihood::Kind kind = Likelihood::Kind::kCategorical;
  std::vector<std::string> scores;  // those that will be computed if the mode allows
  // The request named the scores, so that a mode without them is an error.
  bool scores_named = false;
};

// Which mode a request runs in. INVALID_ARGUMENT with the field for a mode that cannot give what
// the request asks for, or that would need more memory than kMostBytes.
absl::StatusOr<VarianceReport> PlanVariance(const PredictOptions& options,
                                            const VarianceNeeds& needs, VarianceProblem problem);
absl::StatusOr<VarianceReport> PlanVariance(const ScoreOptions& options, const VarianceNeeds& needs,
                                            VarianceProblem problem);

}  // namespace laplaced
