// A fit from the command line to the artifact in the registry, by one process or several.
#pragma once

#include <atomic>
#include <string>

#include "absl/status/statusor.h"
#include "server/linalg/ranks.h"
#include "server/offline/fit_command.h"

namespace laplaced {

// All ranks call it with the same command (FAILED_PRECONDITION if not) and see the same registry;
// rank 0 alone writes there, but for checkpoints. The id of the posterior, which is active unless
// it was to be kept inactive. CANCELLED within a curvature product, or a batch of files, once
// `stop` is set. Stages go to the log.
absl::StatusOr<std::string> FitOffline(const FitCommand& command, const Ranks& ranks,
                                       const std::atomic<bool>& stop);

}  // namespace laplaced
