// Fits, updates and calibrations as a person sees them: progress, refusals that say what stands in
// the way, and the posterior in the end.
//
// Signals that ask the program to end cancel what is followed; one at a time (progress.h).
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/context.h"
#include "client/cpp/client.h"

namespace laplace::cli {

// Starts something and follows it to its end, as Client::Fit, Update and Calibrate do.
using Run = std::function<absl::StatusOr<std::string>(const client::OperationProgress& progress)>;

// Calls `run` with a progress line that opens with `what`. Returns the posterior's id.
absl::StatusOr<std::string> Follow(const client::Client& client, const std::string& what,
                                   const Run& run);

// A refusal to start, with the operations that stand in the way and what can be done about them.
absl::Status ExplainRefusal(const client::Client& client, const absl::Status& refusal);

// Prints a posterior that was just made.
absl::Status PrintPosterior(const Context& context, const client::Client& client,
                            const client::Model& model, const std::string& id);

}  // namespace laplace::cli
