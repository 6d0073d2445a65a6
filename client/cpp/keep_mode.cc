#include "client/cpp/keep_mode.h"

namespace laplace::client {
namespace {

bool LeftToTheServer(VarianceMode mode) {
  return mode == VarianceMode::kDefault || mode == VarianceMode::kAuto;
}

}  // namespace

void KeepMode(const Prediction& first, PredictRequest& request) {
  if (!LeftToTheServer(request.variance_mode)) return;
  request.variance_mode = first.variance_mode;
  if (first.variance_mode == VarianceMode::kSampled) return;
  if (request.return_samples == 0) request.seed = 0;  // which would mean nothing
}

void KeepMode(const Scores& first, ScoreRequest& request) {
  if (!LeftToTheServer(request.variance_mode)) return;
  request.variance_mode = first.variance_mode;
  const bool draws = first.variance_mode == VarianceMode::kSampled ||
                     first.variance_mode == VarianceMode::kDefault;
  if (!draws) request.seed = 0;
}

}  // namespace laplace::client
