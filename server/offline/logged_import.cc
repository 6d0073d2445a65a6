#include "server/offline/logged_import.h"

#include "absl/strings/str_cat.h"
#include "server/linalg/status_macros.h"
#include "server/observe/log.h"
#include "server/offline/logged_progress.h"

namespace laplaced {

absl::StatusOr<std::string> ImportLogged(const std::string& what, const DataFiles& files,
                                         const Manifest& manifest, const DatasetStore& store,
                                         const std::atomic<bool>& stop,
                                         const std::function<absl::Status()>& every_batch) {
  LogInfo(absl::StrCat("putting the ", what, " into the registry"), {{"file", files.inputs}});
  LoggedProgress log("importing", /*speaks=*/true, stop);
  const auto progress = [&](int64_t done, int64_t total) {
    if (log.cancelled()) {
      return absl::CancelledError(
          absl::StrCat("stopped while the ", what, " were put into the registry"));
    }
    log.Report(what, done, total, static_cast<double>(done) / static_cast<double>(total));
    return every_batch ? every_batch() : absl::OkStatus();
  };
  LAPLACED_ASSIGN_OR_RETURN(std::string id, ImportDataset(files, manifest, store, progress));
  LogInfo(absl::StrCat("the ", what, " are in the registry"), {{"id", id}});
  return id;
}

}  // namespace laplaced
