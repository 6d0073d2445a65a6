// A posterior between disk and arithmetic: artifact -> value and fit result -> artifact. Immutable;
// shared by requests.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/laplace/fit.h"
#include "server/laplace/function_sampler.h"
#include "server/laplace/posterior.h"
#include "server/ood/scores.h"
#include "server/registry/posterior_artifact.h"
#include "server/serving/loaded_model.h"

namespace laplaced {

// The network as a function of the parameters that are uncertain under a posterior.
struct UncertainNetwork {
  Network network;
  CapturePlan capture;
};

// What OOD scores know, as it is kept.
struct OodStatistics {
  absl::optional<FeatureStatistics> features;  // nothing: the model has no features
  OodKnowledge knowledge;
};

struct LoadedPosterior {
  PosteriorArtifact artifact;  // keeps the memory map that tensors point into
  UncertainNetwork uncertain;
  Likelihood likelihood;  // with the posterior's own noise
  // Null if the artifact is of format 1, which kept no statistics: it predicts, but takes no data.
  std::shared_ptr<const FittedCurvature> fitted;
  Posterior value;                                 // at the precision for predictions
  Posterior ood_value;                             // at the precision for OOD scores
  std::shared_ptr<const FunctionSampler> sampler;  // copies the network when first used
  OodStatistics ood;
};

// The model's network restricted to the parameters that `options` asks for. Shares the model's
// module if these are all.
absl::StatusOr<UncertainNetwork> Uncertain(const LoadedModel& model, const FitOptions& options);

// Reads an artifact and checks that it belongs to the model: DATA_LOSS if it is damaged,
// FAILED_PRECONDITION if it was fitted to another checkpoint, NOT_FOUND if it is not there.
absl::StatusOr<std::shared_ptr<const LoadedPosterior>> LoadPosterior(const std::string& folder,
                                                                     const LoadedModel& model);

// Writes the result of a fit; `record` comes with what the caller knows (ids, options, thresholds),
// the numbers of the fit and what the scores know are filled in.
absl::Status SavePosterior(const std::string& folder, const Network& network,
                           const FitResult& result, const OodStatistics& ood,
                           PosteriorRecord record);

// Writes a posterior again with what the scores know now; `record` comes with its new id and
// thresholds.
absl::Status SaveCalibrated(const std::string& folder, const LoadedPosterior& before,
                            const OodKnowledge& knowledge, PosteriorRecord record);

}  // namespace laplaced
