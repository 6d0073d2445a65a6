// Options of a fit that do not go together, for every way in which a request comes: by gRPC, by the
// command line, from rank 0.
//
// Free function; thread-safe.
#pragma once

#include "absl/status/status.h"
#include "server/serving/fit_service.h"

namespace laplaced {

// INVALID_ARGUMENT about the field "options...." that the others leave no meaning to: taken in
// silence it would promise something. REQUIRES: every word is one of those that FitRequest lists.
absl::Status CheckFitRequest(const FitRequest& request);

}  // namespace laplaced
