// Predicts and scores any number of rows by calls of bounded size, and joins the answers.
//
// The joint covariance of more rows than one call takes is refused: INVALID_ARGUMENT. All answers
// come in the mode of the first one, and must come from one posterior: ABORTED if another one is
// activated in between, because rows could not be compared. Otherwise the errors of Client::Predict
// and Client::Score. Free functions; thread-safe.
#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "client/cpp/client.h"

namespace laplace::cli {

inline constexpr int64_t kDefaultBatchSize = 250;

// Rows that are answered, and how many there are.
using RowProgress = std::function<void(int64_t done, int64_t total)>;

// `request.inputs` holds all rows.
absl::StatusOr<client::Prediction> PredictRows(const client::Client& client,
                                               const client::PredictRequest& request,
                                               int64_t batch_size = kDefaultBatchSize,
                                               const RowProgress& progress = nullptr);
absl::StatusOr<client::Scores> ScoreRows(const client::Client& client,
                                         const client::ScoreRequest& request,
                                         int64_t batch_size = kDefaultBatchSize,
                                         const RowProgress& progress = nullptr);

// Adds the rows of `part` behind those of `all`, which came from the same posterior.
void JoinScores(client::Scores& all, const client::Scores& part);

}  // namespace laplace::cli
