#include "client/cli/batches.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/examples.h"
#include "client/cpp/keep_mode.h"

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

// Draws of one seed are the same functions in every call, so those of the rows join draw by draw.
void JoinFunctions(client::Prediction& all, const client::Prediction& part) {
  if (part.function_samples.empty()) return;
  const int64_t width = part.outputs, rows = all.batch, more = part.batch;
  const int64_t draws = static_cast<int64_t>(part.function_samples.size()) / (more * width);
  std::vector<float> joined;
  joined.reserve(all.function_samples.size() + part.function_samples.size());
  const auto append = [&](const std::vector<float>& from, int64_t draw, int64_t count) {
    const auto begin = from.begin() + draw * count * width;
    joined.insert(joined.end(), begin, begin + count * width);
  };
  for (int64_t draw = 0; draw < draws; ++draw) {
    append(all.function_samples, draw, rows);
    append(part.function_samples, draw, more);
  }
  all.function_samples = std::move(joined);
}

void Join(client::Prediction& all, const client::Prediction& part) {
  JoinFunctions(all, part);
  all.batch += part.batch;
  Append(all.mean, part.mean);
  Append(all.map_mean, part.map_mean);
  Append(all.functional_mean, part.functional_mean);
  Append(all.functional_variance, part.functional_variance);
  Append(all.functional_covariance, part.functional_covariance);
  Append(all.variance_outputs, part.variance_outputs);
  Append(all.left_out_probability, part.left_out_probability);
  Append(all.left_out_bound, part.left_out_bound);
  Append(all.epistemic, part.epistemic);
  Append(all.aleatoric, part.aleatoric);
  AppendScores(all.ood_scores, part.ood_scores);
  all.estimated_flops += part.estimated_flops;
  AppendTiming(all.timing, part.timing);
}

void Join(client::Scores& all, const client::Scores& part) { JoinScores(all, part); }

// The request but for its rows, which may be many.
client::PredictRequest WithoutInputs(const client::PredictRequest& request) {
  return {request.model,
          request.version,
          {},
          request.prior_precision,
          request.link_approx,
          request.ood_scores,
          request.return_covariance,
          request.variance_mode,
          request.top_classes,
          request.samples,
          request.seed,
          request.temperature,
          request.return_joint_covariance,
          request.return_samples};
}

client::ScoreRequest WithoutInputs(const client::ScoreRequest& request) {
  return {request.model,         request.version, {},          request.ood_scores,
          request.variance_mode, request.samples, request.seed};
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
    if (row > 0) {
      part.version = all.version;
      client::KeepMode(all, part);
    }
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

void JoinScores(client::Scores& all, const client::Scores& part) {
  AppendScores(all.ood_scores, part.ood_scores);
  all.estimated_flops += part.estimated_flops;
  AppendTiming(all.timing, part.timing);
}

absl::StatusOr<client::Prediction> PredictRows(const client::Client& client,
                                               const client::PredictRequest& request,
                                               int64_t batch_size, const RowProgress& progress) {
  if (request.return_joint_covariance && request.inputs.rows() > batch_size) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the joint covariance of ", request.inputs.rows(), " rows takes one call, got calls of ",
        batch_size, " rows: raise the batch size or take fewer rows"));
  }
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
