// From a request and data to a fit that can run: all that can be wrong is found here, before work
// starts. Free functions; thread-safe.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/data/dataset.h"
#include "server/linalg/ranks.h"
#include "server/registry/dataset_store.h"
#include "server/serving/fit_job.h"
#include "server/serving/fit_service.h"
#include "server/serving/loaded_model.h"

namespace laplaced {

// A stored data set, or of several ranks this one's share of it. `field` names the request field in
// messages. Errors: INVALID_ARGUMENT, NOT_FOUND, DATA_LOSS.
absl::StatusOr<Dataset> LoadDataset(const DatasetStore& store, const std::string& field,
                                    const std::string& id, const Ranks& ranks = OneRank());

// A record with a new id, the model's identity and nothing else.
PosteriorRecord NewRecord(const LoadedModel& model);

// The network's own copy of `uncertain`, with data and ranks, which must outlive the job.
absl::StatusOr<FitJob> MakeJob(const LoadedModel& model, const UncertainNetwork& uncertain,
                               Dataset training, Dataset validation,
                               const Ranks& ranks = OneRank());

// The fit that `request` asks for; INVALID_ARGUMENT with a field path. Of several ranks, each
// passes its share of the data, and all the same request.
absl::StatusOr<FitJob> PrepareFit(std::shared_ptr<const LoadedModel> model,
                                  const FitRequest& request, Dataset training, Dataset validation,
                                  const Ranks& ranks = OneRank());

}  // namespace laplaced
