// A Newton step as work: from a request and data to a new version of the model in the registry.
// Jobs are values; running one is safe on any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/data/dataset.h"
#include "server/laplace/newton_step.h"
#include "server/registry/repository.h"
#include "server/serving/loaded_model.h"
#include "server/serving/newton_request.h"
#include "server/serving/operations.h"

namespace laplaced {

// Everything that a running step owns.
struct NewtonJob {
  std::shared_ptr<const LoadedModel> model;
  std::shared_ptr<EmpiricalRisk> risk;
  Dataset held_out;
  NewtonOptions options;
  NewtonRequest request;
};

// All that can be wrong is found here, before work starts: INVALID_ARGUMENT with a field path,
// FAILED_PRECONDITION.
absl::StatusOr<NewtonJob> PrepareNewton(std::shared_ptr<const LoadedModel> model,
                                        const NewtonRequest& request, Dataset training,
                                        Dataset held_out);

struct NewtonOutcome {
  int64_t version = 0;  // the new one
  std::string summary;  // one line for people
  NewtonResult result;
};

// Writes the new version, with newton_step.json in it (NewtonRecord). If the held-out loss does not
// fall, FAILED_PRECONDITION says so with both losses and nothing is written, unless the request
// keeps what is worse (but never a step of length zero). CANCELLED when the operation is cancelled.
absl::StatusOr<NewtonOutcome> RunNewtonJob(const NewtonJob& job, const Repository& repository,
                                           OperationHandle& handle);

// newton_step.json: where the version comes from, options as used, held-out loss and accuracy
// before and after, and the numbers of every step; what does not apply is null.
std::string NewtonRecord(const NewtonJob& job, const NewtonResult& result);

}  // namespace laplaced
