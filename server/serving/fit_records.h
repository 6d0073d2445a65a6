// Options of a fit between the API's request, the statistical core and the artifact's record.
#pragma once

#include "absl/status/statusor.h"
#include "server/laplace/fit.h"
#include "server/registry/posterior_record.h"
#include "server/serving/fit_service.h"

namespace laplaced {

inline constexpr double kDefaultTargetIdRate = 0.05;

// With the defaults that laplace/v1/posterior.proto documents filled in. INVALID_ARGUMENT with a
// field path for numbers and names that mean nothing, alone or together (CheckFitRequest); whether
// they suit model and data is for CheckFit.
absl::StatusOr<FitOptions> ToFitOptions(const FitRequest& request);

// The options part of a record. DATA_LOSS for names that are unknown.
absl::StatusOr<FitOptions> ToFitOptions(const PosteriorRecord& record);
void FillOptions(const FitOptions& options, PosteriorRecord& record);

// Names as in records.
const char* NameOf(PriorMethod method);
const char* NameOf(NoiseMethod method);

}  // namespace laplaced
