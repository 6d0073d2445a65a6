// Whether ranks that were started one by one mean the same fit. Free functions; thread-safe.
#pragma once

#include "absl/status/status.h"
#include "server/linalg/ranks.h"
#include "server/offline/fit_command.h"
#include "server/serving/loaded_model.h"

namespace laplaced {

// All ranks call it. FAILED_PRECONDITION on all of them if options, checkpoint, manifest or program
// of one differ from those of rank 0; it says in what. `request` is what the command became when
// the ranks had agreed on version and data.
absl::Status CheckSameFit(const FitCommand& command, const FitRequest& request,
                          const LoadedModel& model, const Ranks& ranks);

}  // namespace laplaced
