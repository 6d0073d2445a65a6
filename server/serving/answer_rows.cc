#include "server/serving/answer_rows.h"

namespace laplaced {
namespace {

// `from` has `rows` rows of one size each, or is empty.
template <typename T>
void AppendRowsOf(const std::vector<T>& from, int64_t rows, int64_t begin, int64_t count,
                  std::vector<T>& to) {
  const auto stride = static_cast<int64_t>(from.size()) / rows;
  to.insert(to.end(), from.begin() + begin * stride, from.begin() + (begin + count) * stride);
}

void AppendScores(const std::vector<ScoreValues>& from, int64_t rows, int64_t begin, int64_t count,
                  std::vector<ScoreValues>& to) {
  if (to.empty()) {
    for (const ScoreValues& score : from) to.push_back({score.name, {}, score.calibration});
  }
  for (size_t i = 0; i < from.size(); ++i) {
    AppendRowsOf(from[i].values, rows, begin, count, to[i].values);
  }
}

constexpr std::vector<float> Prediction::*kArrays[] = {
    &Prediction::mean,
    &Prediction::map_mean,
    &Prediction::functional_mean,
    &Prediction::functional_variance,
    &Prediction::functional_covariance,
    &Prediction::left_out_probability,
    &Prediction::left_out_bound,
    &Prediction::epistemic,
    &Prediction::aleatoric,
};

}  // namespace

void AppendRows(const Prediction& from, int64_t begin, int64_t count, Prediction& to) {
  to.posterior_id = from.posterior_id;
  to.outputs = from.outputs;
  to.likelihood = from.likelihood;
  to.prior_precision = from.prior_precision;
  to.temperature = from.temperature;
  to.variance = from.variance;
  to.batch += count;
  for (const auto array : kArrays) {
    AppendRowsOf(from.*array, from.batch, begin, count, to.*array);
  }
  AppendRowsOf(from.variance_outputs, from.batch, begin, count, to.variance_outputs);
  AppendScores(from.scores, from.batch, begin, count, to.scores);
}

void AppendRows(const Scores& from, int64_t begin, int64_t count, Scores& to) {
  to.posterior_id = from.posterior_id;
  to.variance = from.variance;
  if (from.scores.empty()) return;
  const auto rows = static_cast<int64_t>(from.scores[0].values.size());
  AppendScores(from.scores, rows, begin, count, to.scores);
}

}  // namespace laplaced
