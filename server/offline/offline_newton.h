// A Newton step from the command line to a new model version in the registry, by one process.
#pragma once

#include <atomic>
#include <string>

#include "absl/status/statusor.h"
#include "server/offline/newton_command.h"

namespace laplaced {

// "NAME/VERSION" of the new version. FAILED_PRECONDITION if the model would not get better
// (newton_job.h); CANCELLED within a curvature product, or a batch of files, once `stop` is set.
// Stages, the losses before and after, and warnings go to the log.
absl::StatusOr<std::string> NewtonOffline(const NewtonCommand& command,
                                          const std::atomic<bool>& stop);

}  // namespace laplaced
