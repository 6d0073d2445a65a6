// Data files of a command into the registry's store, told to the log. Free functions; thread-safe.
#pragma once

#include <atomic>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "server/offline/dataset_import.h"

namespace laplaced {

// ImportDataset of `what` ("training data"). The log has its progress and the id, with which a
// later try need not import again. CANCELLED between two batches once `stop` is set. `every_batch`
// may be null; its error ends the import, too.
absl::StatusOr<std::string> ImportLogged(
    const std::string& what, const DataFiles& files, const Manifest& manifest,
    const DatasetStore& store, const std::atomic<bool>& stop,
    const std::function<absl::Status()>& every_batch = nullptr);

}  // namespace laplaced
