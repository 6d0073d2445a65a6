// The server's records as messages of the API. Each function fills a message that is empty and
// cannot fail. Free functions on values; thread-safe.
#pragma once

#include <laplace/v1/model.pb.h>
#include <laplace/v1/operation.pb.h>
#include <laplace/v1/posterior.pb.h>
#include <laplace/v1/prediction.pb.h>

#include <string>

#include "server/registry/dataset_store.h"
#include "server/registry/posterior_record.h"
#include "server/serving/engine_types.h"
#include "server/serving/operations.h"

namespace laplaced {

void FillModel(const ModelInfo& info, laplace::v1::Model* model);

void FillOperation(const OperationSnapshot& snapshot, laplace::v1::Operation* operation);

// `active_posterior_id` decides `active`.
void FillPosterior(const PosteriorRecord& record, const std::string& active_posterior_id,
                   laplace::v1::Posterior* posterior);

void FillDataset(const DatasetInfo& info, laplace::v1::Dataset* dataset);

void FillScore(const ScoreValues& values, laplace::v1::OodScore* score);

void FillVariance(const VarianceReport& report, laplace::v1::ScoreResponse* response);

// Everything but `timing`, `model` and `version`.
void FillPrediction(const Prediction& prediction, laplace::v1::PredictResponse* response);

}  // namespace laplaced
