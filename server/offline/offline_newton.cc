#include "server/offline/offline_newton.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/model/torch_status.h"
#include "server/observe/log.h"
#include "server/offline/logged_import.h"
#include "server/offline/logged_progress.h"
#include "server/registry/registry_lock.h"
#include "server/registry/repository.h"
#include "server/serving/fit_start.h"
#include "server/serving/newton_job.h"

namespace laplaced {
absl::StatusOr<std::string> NewtonOffline(const NewtonCommand& command,
                                          const std::atomic<bool>& stop) {
  LAPLACED_ASSIGN_OR_RETURN(const RegistryLock lock, RegistryLock::Take(command.registry));
  LAPLACED_ASSIGN_OR_RETURN(const Repository repository, Repository::Open(command.registry));
  const DatasetStore store(repository.DatasetsFolder(), std::numeric_limits<int64_t>::max());
  NewtonRequest request = command.request;
  if (request.version == 0) {
    LAPLACED_ASSIGN_OR_RETURN(request.version, repository.LatestVersion(request.model));
  }
  LAPLACED_ASSIGN_OR_RETURN(const auto model,
                            LoadModel(repository, {request.model, request.version}));
  if (command.training) {
    LAPLACED_ASSIGN_OR_RETURN(
        request.train_dataset_id,
        ImportLogged("training data", *command.training, model->manifest, store, stop));
  }
  if (command.held_out) {
    LAPLACED_ASSIGN_OR_RETURN(
        request.held_out_dataset_id,
        ImportLogged("held-out data", *command.held_out, model->manifest, store, stop));
  }
  LAPLACED_ASSIGN_OR_RETURN(Dataset training,
                            LoadDataset(store, "--train", request.train_dataset_id));
  Dataset held_out;
  if (!request.held_out_dataset_id.empty()) {
    LAPLACED_ASSIGN_OR_RETURN(held_out,
                              LoadDataset(store, "--held-out", request.held_out_dataset_id));
  }
  LAPLACED_ASSIGN_OR_RETURN(
      const NewtonJob job, PrepareNewton(model, request, std::move(training), std::move(held_out)));
  LoggedProgress progress("stepping", /*speaks=*/true, stop);
  LAPLACED_ASSIGN_OR_RETURN(const NewtonOutcome outcome, RunNewtonJob(job, repository, progress));
  const std::string made = absl::StrCat(request.model, "/", outcome.version);
  LogInfo("wrote a new version", {{"model", made},
                                  {"from", absl::StrCat(request.model, "/", request.version)},
                                  {"result", outcome.summary}});
  for (const std::string& warning : outcome.result.warnings) LogWarning(warning);
  return made;
}

}  // namespace laplaced
