#include "server/offline/offline_fit.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/laplace/lanczos_checkpoint.h"
#include "server/model/torch_status.h"
#include "server/observe/log.h"
#include "server/offline/logged_import.h"
#include "server/offline/logged_progress.h"
#include "server/offline/long_broadcast.h"
#include "server/offline/same_fit.h"
#include "server/registry/posterior_artifact.h"
#include "server/registry/registry_lock.h"
#include "server/registry/repository.h"
#include "server/serving/fit_start.h"

namespace laplaced {
namespace {

// How often the others hear of rank 0 while it imports files.
std::chrono::duration<double> SignOfLife(const FitCommand& command) {
  return std::chrono::duration<double>(std::min(5.0, command.rank_timeout_seconds / 4));
}

// What rank 0 decides before all load the same: version and data sets.
absl::Status Agree(const FitCommand& command, const Repository& repository,
                   const DatasetStore& store, const Ranks& ranks, const std::atomic<bool>& stop,
                   FitRequest& request) {
  LongBroadcast broadcast(ranks, SignOfLife(command));
  std::string version;
  if (ranks.rank() == 0) {
    if (request.version == 0) {
      LAPLACED_ASSIGN_OR_RETURN(request.version, repository.LatestVersion(request.model));
    }
    version = absl::StrCat(request.version);
    LAPLACED_ASSIGN_OR_RETURN(const auto model,
                              LoadModel(repository, {request.model, request.version}));
    const auto import = [&](const std::string& what, const DataFiles& files) {
      return ImportLogged(what, files, model->manifest, store, stop,
                          [&] { return broadcast.StillSearching(); });
    };
    if (command.training) {
      LAPLACED_ASSIGN_OR_RETURN(request.train_dataset_id,
                                import("training data", *command.training));
    }
    if (command.validation) {
      LAPLACED_ASSIGN_OR_RETURN(request.validation_dataset_id,
                                import("validation data", *command.validation));
    }
  }
  LAPLACED_RETURN_IF_ERROR(broadcast.Finish(stop, version));
  LAPLACED_RETURN_IF_ERROR(BroadcastText(ranks, request.train_dataset_id));
  LAPLACED_RETURN_IF_ERROR(BroadcastText(ranks, request.validation_dataset_id));
  request.version = std::stoll(version);
  return absl::OkStatus();
}

// All that the search for directions depends on, but for memory, which is free to change.
std::string Fingerprint(const FitJob& job, const FitRequest& request) {
  const LowRankOptions& o = job.options.low_rank;
  return absl::StrCat("model ", job.record.model, "/", job.record.version, " checkpoint ",
                      job.record.checkpoint_sha256, " manifest ", job.record.manifest_fingerprint,
                      " data ", request.train_dataset_id, " parameters [",
                      absl::StrJoin(request.parameters, ","), "] rank ", o.rank, " b1 ",
                      o.direction_batch_size, " b2 ", o.curvature_batch_size, " debiasing ",
                      job.record.debiasing, " curvature ", job.record.curvature, " samples ",
                      o.curvature.fisher_samples, " seed ", o.seed, " tolerance ",
                      o.lanczos_tolerance, " max_products ", o.max_products, " sigma_noise ",
                      job.options.sigma_noise.value_or(0), " noise ", job.record.noise_method);
}

LanczosCheckpoint MakeCheckpoint(const FitCommand& command, const FitJob& job,
                                 const FitRequest& request, const std::string& root) {
  LanczosCheckpoint::Options options;
  options.folder = command.checkpoint_folder;
  if (options.folder.empty()) {
    options.folder = absl::StrCat(root, "/checkpoints/", job.record.model, "-", job.record.version);
  }
  options.fingerprint = Fingerprint(job, request);
  options.interval = std::chrono::duration<double>(command.checkpoint_seconds);
  if (command.checkpoint_seconds == 0) {
    options.interval = std::chrono::hours(24 * 365 * 100);
  }
  options.resume = command.resume;
  options.tell = [](const std::string& message) { LogInfo(message); };
  return LanczosCheckpoint(std::move(options));
}

// Activates what rank 0 has written, if it was to be, and tells the log of it.
absl::Status Publish(const FitJob& job, const std::string& folder, const Repository& repository,
                     const Ranks& ranks) {
  LAPLACED_ASSIGN_OR_RETURN(const PosteriorRecord record, ReadPosteriorRecord(folder));
  if (job.activate) {
    LAPLACED_RETURN_IF_ERROR(
        repository.SetActivePosterior({record.model, record.version}, record.id));
  }
  const double seconds = record.lanczos_seconds;
  LogInfo("fitted", {{"posterior", record.id},
                     {"model", absl::StrCat(record.model, "/", record.version)},
                     {"ranks", ranks.size()},
                     {"seconds", record.fit_seconds},
                     {"curvature_products", record.curvature_products},
                     {"products_per_second",
                      seconds > 0 ? static_cast<double>(record.curvature_products) / seconds : 0.0},
                     {"active", std::string(job.activate ? "yes" : "no")}});
  for (const std::string& warning : record.warnings) LogWarning(warning);
  return absl::OkStatus();
}

// Rank 0 tells the others that all is well. They do not end before: a launcher that starts failed
// ranks again would start rank 0 alone. If it fails, the call says why.
absl::Status EndTogether(const Ranks& ranks) {
  std::string nothing;
  const absl::Status told = BroadcastText(ranks, nothing);
  if (told.ok()) {
    // A connection that is closed loses what is on its way. Each rank that comes here knows.
    at::Tensor here = at::zeros({1}, at::kLong);
    ranks.Sum(here).IgnoreError();
    return told;
  }
  if (ranks.rank() != 0) return told;
  LogWarning("the fit is done, but not all ranks know", {{"reason", std::string(told.message())}});
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> FitOffline(const FitCommand& command, const Ranks& ranks,
                                       const std::atomic<bool>& stop) {
  const bool writes = ranks.rank() == 0;
  absl::optional<RegistryLock> lock;
  if (writes) {
    LAPLACED_ASSIGN_OR_RETURN(lock, RegistryLock::Take(command.registry));
  }
  LAPLACED_ASSIGN_OR_RETURN(
      const Repository repository,
      writes ? Repository::Open(command.registry) : Repository::OpenReadOnly(command.registry));
  const DatasetStore store(repository.DatasetsFolder(), std::numeric_limits<int64_t>::max());
  FitRequest request = command.request;
  LAPLACED_RETURN_IF_ERROR(Agree(command, repository, store, ranks, stop, request));

  LAPLACED_ASSIGN_OR_RETURN(const auto model,
                            LoadModel(repository, {request.model, request.version}));
  LAPLACED_RETURN_IF_ERROR(CheckSameFit(command, request, *model, ranks));
  LAPLACED_ASSIGN_OR_RETURN(Dataset training,
                            LoadDataset(store, "--train", request.train_dataset_id, ranks));
  Dataset validation;
  if (!request.validation_dataset_id.empty()) {
    LAPLACED_ASSIGN_OR_RETURN(
        validation, LoadDataset(store, "--validation", request.validation_dataset_id, ranks));
  }
  LAPLACED_ASSIGN_OR_RETURN(
      FitJob job, PrepareFit(model, request, std::move(training), std::move(validation), ranks));
  LanczosCheckpoint checkpoint = MakeCheckpoint(command, job, request, repository.root());
  LAPLACED_ASSIGN_OR_RETURN(
      const std::string folder,
      repository.PosteriorFolder({job.record.model, job.record.version}, job.record.id));
  LoggedProgress progress("fitting", ranks.rank() == 0, stop);
  LAPLACED_RETURN_IF_ERROR(RunFitJob(job, folder, progress, &checkpoint));
  if (writes) {
    LAPLACED_RETURN_IF_ERROR(Publish(job, folder, repository, ranks));
    checkpoint.Remove();
  }
  LAPLACED_RETURN_IF_ERROR(EndTogether(ranks));
  return job.record.id;
}

}  // namespace laplaced
