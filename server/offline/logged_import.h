// Data files of a command into the registry's store, told to the log. Free functions; thread-safe.
#pragma once

#include <atomic>
#include <string>

#include "absl/status/statusor.h"
#include "server/offline/dataset_import.h"

namespace laplaced {

// ImportDataset of `what` ("training data"), with its progress. CANCELLED between two batches once
// `stop` is set.
absl::StatusOr<std::string> ImportLogged(const std::string& what, const DataFiles& files,
                                         const Manifest& manifest, const DatasetStore& store,
                                         const std::atomic<bool>& stop);

}  // namespace laplaced
