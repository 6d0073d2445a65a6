// Between the client's plain values and the generated messages. Internal to the client library.
//
// Requests are checked only for what would make a malformed message (an array whose bytes do not
// match its shape); whether they make sense is the server's to say. Answers are checked before
// anybody indexes into them: INTERNAL if a tensor does not have the shape that the API promises.
// Free functions on values; thread-safe.
#pragma once

#include "absl/status/statusor.h"
#include "client/cpp/fit_types.h"
#include "client/cpp/types.h"
#include "laplace/v1/model.pb.h"
#include "laplace/v1/operation.pb.h"
#include "laplace/v1/posterior.pb.h"
#include "laplace/v1/prediction.pb.h"
#include "laplace/v1/tensor.pb.h"

namespace laplace::client {

// int32 has no counterpart in the API and becomes UNSPECIFIED, which the server refuses.
v1::DataType ToProto(DType dtype);
v1::FitPosteriorRequest ToProto(const FitRequest& request);
v1::UpdatePosteriorRequest ToProto(const UpdateRequest& request);
v1::CalibrateOodRequest ToProto(const CalibrateRequest& request);
v1::NewtonStepRequest ToProto(const NewtonRequest& request);
absl::StatusOr<v1::PredictRequest> ToProto(const PredictRequest& request);
absl::StatusOr<v1::ScoreRequest> ToProto(const ScoreRequest& request);
// All but the inputs.
v1::PredictRequest OptionsToProto(const PredictRequest& request);
v1::ScoreRequest OptionsToProto(const ScoreRequest& request);
absl::Status InputsToProto(const Array& inputs, v1::Tensor& tensor);

Model FromProto(const v1::Model& model);
Dataset FromProto(const v1::Dataset& dataset);
Operation FromProto(const v1::Operation& operation);
Posterior FromProto(const v1::Posterior& posterior);
absl::StatusOr<Prediction> FromProto(const v1::PredictResponse& response);
absl::StatusOr<Scores> FromProto(const v1::ScoreResponse& response);

}  // namespace laplace::client
