// One computation for rows of several requests.
//
// Free functions; on the compute thread.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "server/serving/compute_context.h"
#include "server/serving/request_queue.h"

namespace laplaced {

// Computes all parts together and appends what comes out to each request's answer. If that fails,
// computes every part by itself, so that an error reaches only the request that it belongs to.
// Returns a status per part; exceptions are INTERNAL. REQUIRES: the parts go together
// (RequestQueue::Next).
std::vector<absl::Status> ComputeParts(const std::vector<BatchPart>& parts,
                                       const ComputeContext& context);

}  // namespace laplaced
