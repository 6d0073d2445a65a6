// What a Predict or Score comes down to once its options are read, whether it came alone or as a
// batch of a stream: the checks that need the model, and the answer.
//
// Free functions; thread-safe.
#pragma once

#include <laplace/v1/prediction.pb.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/observe/ood_metrics.h"
#include "server/rpc/call_guard.h"
#include "server/rpc/call_ledger.h"
#include "server/serving/batcher.h"
#include "server/serving/model_host.h"

namespace laplaced {

// What the calls of PredictionService share. All references must outlive the gRPC server.
struct PredictionParts {
  const ModelHost& host;
  Batcher& batcher;
  OodMetrics& ood_metrics;
  const CallGuard& guard;
  CallLedger& ledger;
  // Answers that would be larger are refused before they are computed.
  int64_t max_response_bytes = 0;
};

// Everything about `inputs` and `options` that can be told without computing, the size of the
// answer included. INVALID_ARGUMENT with a field, or FAILED_PRECONDITION.
absl::Status CheckAnswerable(const PredictionParts& parts, const ServedModel& model,
                             const ArrayView& inputs, const PredictOptions& options);
absl::Status CheckAnswerable(const PredictionParts& parts, const ServedModel& model,
                             const ArrayView& inputs, const ScoreOptions& options);

// Counts the verdicts of an answer, and how uncertain a prediction is.
void CountAnswer(OodMetrics& metrics, const ModelInfo& model, const Prediction& answer);
void CountAnswer(OodMetrics& metrics, const ModelInfo& model, const Scores& answer);

// Fills a response that is empty and counts the answer.
void FillAnswer(const PredictionParts& parts, const ServedModel& model, const Prediction& answer,
                const BatchTiming& timing, laplace::v1::PredictResponse* response);
void FillAnswer(const PredictionParts& parts, const ServedModel& model, const Scores& answer,
                const BatchTiming& timing, laplace::v1::ScoreResponse* response);

}  // namespace laplaced
