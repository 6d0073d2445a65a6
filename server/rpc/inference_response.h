// Answers in the Open Inference Protocol. Each function fills a message that is empty. Free
// functions on values; thread-safe.
#pragma once

#include <inference/grpc_predict_v2.pb.h>

#include "absl/status/status.h"
#include "server/rpc/inference_request.h"
#include "server/serving/model_host.h"
#include "server/serving/pending_request.h"

namespace laplaced {

// FAILED_PRECONDITION if is_outlier is asked for by name and the score has no threshold.
absl::Status FillInference(const InferenceRequest& request, const ModelInfo& model,
                           const Prediction& answer, const BatchTiming& timing,
                           inference::ModelInferResponse* response);
absl::Status FillInference(const InferenceRequest& request, const ModelInfo& model,
                           const Scores& answer, const BatchTiming& timing,
                           inference::ModelInferResponse* response);

// Names, types and shapes; `model.state` is READY.
void FillModelMetadata(const ModelInfo& model, inference::ModelMetadataResponse* response);

}  // namespace laplaced
