// Requests of the API as the server's own values.
//
// Everything that can be told without model and data is checked here: known enum numbers, signs,
// finite values, which options go together (fit_options_codec.h). The zero of an enum is its
// documented default. Errors are INVALID_ARGUMENT with
// the field, what was expected and what came. Free functions on values; thread-safe.
#pragma once

#include <laplace/v1/posterior.pb.h>
#include <laplace/v1/prediction.pb.h>

#include "absl/status/statusor.h"
#include "formats/dataset_id.h"
#include "server/serving/batcher.h"
#include "server/serving/engine_types.h"
#include "server/serving/fit_service.h"

namespace laplaced {

absl::StatusOr<FitRequest> ToFitRequest(const laplace::v1::FitPosteriorRequest& request);

absl::StatusOr<UpdateRequest> ToUpdateRequest(const laplace::v1::UpdatePosteriorRequest& request);

absl::StatusOr<CalibrateRequest> ToCalibrateRequest(
    const laplace::v1::CalibrateOodRequest& request);

absl::StatusOr<NewtonRequest> ToNewtonRequest(const laplace::v1::NewtonStepRequest& request);

absl::StatusOr<DatasetHeader> ToDatasetHeader(const laplace::v1::DatasetHeader& header);

// `standard` is what UNSPECIFIED means.
absl::StatusOr<Priority> ToPriority(laplace::v1::Priority priority, Priority standard);

absl::StatusOr<PredictOptions> ToPredictOptions(const laplace::v1::PredictRequest& request);

absl::StatusOr<ScoreOptions> ToScoreOptions(const laplace::v1::ScoreRequest& request);

}  // namespace laplaced
