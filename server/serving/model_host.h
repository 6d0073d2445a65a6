// The models that are being served: load, unload, look up, switch posterior, predict.
//
// A request pins a ServedModel (shared_ptr) and finishes with what it started with, whatever is
// loaded, unloaded or activated meanwhile. Loading reads and checks everything before anything is
// replaced: a bad checkpoint or artifact leaves what was served untouched. ModelHost is
// thread-safe; Predict and Score of a ServedModel run LibTorch and belong on the compute thread
// (they are safe, but not faster, on several threads at once).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/registry/repository.h"
#include "server/serving/compute_context.h"
#include "server/serving/engine_types.h"

namespace laplaced {

class ModelHost;

// One loaded version together with the posterior that was active when it was pinned (possibly
// none). Immutable.
class ServedModel {
 public:
  virtual ~ServedModel() = default;

  virtual const ModelInfo& info() const = 0;
  // Empty if no posterior is active.
  virtual std::string posterior_id() const = 0;

  // Everything about `inputs` and `options` that can be checked without computing: shape, dtype,
  // finite values, score names, precision, an active posterior. INVALID_ARGUMENT with a field
  // (field_error.h) or FAILED_PRECONDITION.
  virtual absl::Status Validate(const ArrayView& inputs, const PredictOptions& options) const = 0;
  virtual absl::Status Validate(const ArrayView& inputs, const ScoreOptions& options) const = 0;

  // REQUIRES: Validate(inputs, options) is OK.
  virtual Batching BatchingOf(const ArrayView& inputs, const PredictOptions& options) const = 0;
  virtual Batching BatchingOf(const ArrayView& inputs, const ScoreOptions& options) const = 0;

  // REQUIRES: Validate(inputs, options) is OK. Checks `context` between blocks.
  virtual absl::StatusOr<Prediction> Predict(const ArrayView& inputs, const PredictOptions& options,
                                             const ComputeContext& context) const = 0;
  virtual absl::StatusOr<Scores> Score(const ArrayView& inputs, const ScoreOptions& options,
                                       const ComputeContext& context) const = 0;
};

struct ModelHostOptions {
  int64_t max_batch_size = 1024;
  // Of all loaded models together (ModelInfo::memory_bytes); 0: no limit.
  int64_t max_model_bytes = 0;
  // Told the name of a model after anything about its loaded versions or their posteriors has
  // changed, on the thread that changed it; may be empty.
  std::function<void(const std::string& name)> on_change;
};

class ModelHost {
 public:
  virtual ~ModelHost() = default;

  // The repository's models with their states, sorted by name then version.
  virtual absl::StatusOr<std::vector<ModelInfo>> List() const = 0;
  // Those that are loaded or have failed to load, as far as is known without a look at the
  // repository, which may be on a disk that does not answer. Sorted likewise.
  virtual std::vector<ModelInfo> Tried() const = 0;
  // `version` 0: the loaded version with the highest number (for Get also: else the highest
  // available).
  virtual absl::StatusOr<ModelInfo> Get(const std::string& name, int64_t version) const = 0;
  // `version` 0: the highest in the repository. Includes the active posterior and a warm-up.
  // RESOURCE_EXHAUSTED if it would take more memory than there may be, before anything is read.
  virtual absl::StatusOr<ModelInfo> Load(const std::string& name, int64_t version) = 0;
  // A version that failed to load is wanted no more: Tried and List no longer say so.
  virtual void ForgetFailure(const std::string& name, int64_t version) = 0;
  // `version` 0: all loaded versions.
  virtual absl::Status Unload(const std::string& name, int64_t version) = 0;
  // `version` 0: the loaded version with the highest number. NOT_FOUND if it is not loaded (message
  // says how to load it).
  virtual absl::StatusOr<std::shared_ptr<const ServedModel>> Pin(const std::string& name,
                                                                 int64_t version) const = 0;
  // The same for who wants an answer: `version` 0 is the highest that has an active posterior, so
  // that a version that waits for its first posterior takes nobody's requests. Without any, as Pin.
  virtual absl::StatusOr<std::shared_ptr<const ServedModel>> PinToAnswer(const std::string& name,
                                                                         int64_t version) const = 0;
  // Sorted; empty if none is loaded.
  virtual std::vector<int64_t> LoadedVersions(const std::string& name) const = 0;
  // Reads, checks and switches, then records it durably. If `instead_of` is not empty, only while
  // that posterior is the active one; else ABORTED, and nothing changes.
  virtual absl::Status ActivatePosterior(const std::string& name, int64_t version,
                                         const std::string& posterior_id,
                                         const std::string& instead_of) = 0;
  // Removes a posterior from the repository, durably. `version` as for Get. NOT_FOUND,
  // FAILED_PRECONDITION (it is the active one).
  virtual absl::Status DeletePosterior(const std::string& name, int64_t version,
                                       const std::string& posterior_id) = 0;
  // Takes up the posterior that the repository says is active, if it is another than that of the
  // loaded version: somebody else may have activated it. True if it was. An error changes nothing.
  virtual absl::StatusOr<bool> RefreshPosterior(const std::string& name, int64_t version) = 0;
};

// The real one, on LibTorch. Applies thread settings of server/model/torch_runtime.h on the calling
// thread.
std::unique_ptr<ModelHost> MakeModelHost(const Repository& repository,
                                         const ModelHostOptions& options);

}  // namespace laplaced
