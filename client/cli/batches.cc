#include "client/cli/batches.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/examples.h"

namespace laplace::cli {
namespace {

template <typename T>
void Append(std::vector<T>& all, const std::vector<T>& part) {
  all.insert(all.end(), part.begin(), part.end());
}

void AppendScores(std::vector<client::OodScore>& all, const std::vector<client::OodScore>& part) {
  for (size_t i = 0; i < all.size() && i < part.size(); ++i) {
    Append(all[i].values, part[i].values);
    Append(all[i].is_ood, part[i].is_ood);
  }
}

void AppendTiming(client::Timing& all, const client::Timing& part) {
  all.queue_seconds += part.queue_seconds;
  all.compute_seconds += part.compute_seconds;
}

void Join(client::Prediction& all, const client::Prediction& part) {
  all.batch += part.batch;
  Append(all.mean, part.mean);
  Append(all.map_mean, part.map_mean);
  Append(all.functional_mean, part.functional_mean);
  Append(all.functional_variance, part.functional_variance);
  Append(all.functional_covariance, part.functional_covariance);
  Append(all.epistemic, part.epistemic);
  Append(all.aleatoric, part.aleatoric);
  AppendScores(all.ood_scores, part.ood_scores);
  AppendTiming(all.timing, part.timing);
}

void Join(client::Scores& all, const client::Scores& part) {
  AppendScores(all.ood_scores, part.ood_scores);
  AppendTiming(all.timing, part.timing);
}

// The request but for its rows, which may be many.
client::PredictRequest WithoutInputs(const client::PredictRequest& request) {
  return {request.model,
          request.version,
          {},
          request.prior_precision,
          request.link_approx,
          request.ood_scores,
          request.return_covariance};
}

client::ScoreRequest WithoutInputs(const client::ScoreRequest& request) {
  return {request.model, request.version, {}, request.ood_scores};
}

template <typename Answer, typename Request, typename Call>
absl::StatusOr<Answer> InBatches(const Request& request, int64_t batch_size,
                                 const RowProgress& progress, const Call& call) {
  const int64_t rows = request.inputs.rows();
  Answer all;
  for (int64_t row = 0; row < rows; row += batch_size) {
    const int64_t count = std::min(batch_size, rows - row);
    Request part = WithoutInputs(request);
    part.inputs = SliceRows(request.inputs, row, count);
    // The version that answered first answers them all.
    if (row > 0) part.version = all.version;
    absl::StatusOr<Answer> answer = call(part);
    if (!answer.ok()) return answer.status();
    if (row == 0) {
      all = *std::move(answer);
    } else if (answer->posterior_id != all.posterior_id) {
      return absl::AbortedError(absl::StrCat("posterior ", answer->posterior_id, " replaced ",
                                             all.posterior_id, " at row ", row, "; run it again"));
    } else {
      Join(all, *answer);
    }
    if (progress) progress(row + count, rows);
  }
  return all;
}

}  // namespace

absl::StatusOr<client::Prediction> PredictRows(const client::Client& client,
                                               const client::PredictRequest& request,
                                               int64_t batch_size, const RowProgress& progress) {
  return InBatches<client::Prediction>(
      request, batch_size, progress,
      [&](const client::PredictRequest& part) { return client.Predict(part); });
}

absl::StatusOr<client::Scores> ScoreRows(const client::Client& client,
                                         const client::ScoreRequest& request, int64_t batch_size,
                                         const RowProgress& progress) {
  return InBatches<client::Scores>(
      request, batch_size, progress,
      [&](const client::ScoreRequest& part) { return client.Score(part); });
}

}  // namespace laplace::cli
