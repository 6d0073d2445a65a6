// Options of a fit, from the API to the server's own values and back.
//
// Reading checks everything that can be told from the options alone: known enum numbers, signs,
// finite values, and which options go together. Errors are INVALID_ARGUMENT with the field
// ("options.structure"), what was expected and what came. Free functions on values; thread-safe.
#pragma once

#include <laplace/v1/posterior.pb.h>

#include "absl/status/status.h"
#include "server/registry/posterior_record.h"
#include "server/serving/fit_service.h"

namespace laplaced {

// Fills the options of `fit`, nothing else.
absl::Status ReadFitOptions(const laplace::v1::FitOptions& options, FitRequest* fit);

// Options as a fit has used them.
void FillFitOptions(const PosteriorRecord& record, laplace::v1::FitOptions* options);

}  // namespace laplaced
