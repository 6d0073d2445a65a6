// A posterior between disk and arithmetic: artifact -> value and fit result -> artifact. Immutable;
// shared by requests.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/laplace/fit.h"
#include "server/laplace/posterior.h"
#include "server/registry/posterior_artifact.h"
#include "server/serving/loaded_model.h"

namespace laplaced {

struct LoadedPosterior {
  PosteriorArtifact artifact;  // keeps the memory map that `value.directions` points into
  LowRankPosterior value;      // at the precision for predictions
  LowRankPosterior ood_value;  // at the precision for OOD scores
};

// Reads an artifact and checks that it belongs to the model: DATA_LOSS if it is damaged,
// FAILED_PRECONDITION if it was fitted to another checkpoint, NOT_FOUND if it is not there.
absl::StatusOr<std::shared_ptr<const LoadedPosterior>> LoadPosterior(const std::string& folder,
                                                                     const LoadedModel& model);

// Writes the result of a fit; `record` comes with what the caller knows (ids, options, thresholds),
// the numbers of the fit are filled in from `result`.
absl::Status SavePosterior(const std::string& folder, const FitResult& result,
                           PosteriorRecord record);

}  // namespace laplaced
