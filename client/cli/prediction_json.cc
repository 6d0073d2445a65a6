// Predictions and scores as JSON.
#include <string>
#include <utility>
#include <vector>

#include "client/cli/json_output.h"
#include "client/cli/metrics.h"

namespace laplace::cli {
namespace {

template <typename T>
Json Row(const std::vector<T>& values, int64_t row, int64_t width) {
  return std::vector<T>(values.begin() + row * width, values.begin() + (row + 1) * width);
}

Json RowScores(const std::vector<client::OodScore>& scores, int64_t row) {
  Json json = Json::object();
  for (const client::OodScore& score : scores) {
    json[score.name]["value"] = score.values[row];
    if (score.threshold) json[score.name]["is_ood"] = static_cast<bool>(score.is_ood[row]);
  }
  return json;
}

Json Thresholds(const std::vector<client::OodScore>& scores) {
  Json json = Json::object();
  for (const client::OodScore& score : scores) {
    if (!score.threshold) continue;
    json[score.name] = {{"threshold", *score.threshold}, {"target_id_rate", score.target_id_rate}};
  }
  return json;
}

Json ToJson(const client::Timing& timing) {
  return {{"queue_seconds", timing.queue_seconds}, {"compute_seconds", timing.compute_seconds}};
}

std::string NameAt(const client::Model& model, int64_t index) {
  const bool named = index < static_cast<int64_t>(model.class_names.size());
  return named ? model.class_names[index] : std::string();
}

// What a row is said to be: one class, or every label that is more likely there than not.
void AddPredicted(const client::Prediction& prediction, const client::Model& model, int64_t row,
                  Json& item) {
  if (model.likelihood == client::Likelihood::kCategorical) {
    const int64_t predicted = ArgMax(prediction.mean, prediction.outputs, row);
    item["predicted"] = predicted;
    if (const std::string name = NameAt(model, predicted); !name.empty()) item["class_name"] = name;
  }
  if (model.likelihood == client::Likelihood::kBernoulli) {
    item["predicted"] = LikelyLabels(prediction.mean, prediction.outputs, row);
    if (model.class_names.empty()) return;
    item["label_names"] = Json::array();
    for (const int64_t label : item["predicted"]) {
      item["label_names"].push_back(NameAt(model, label));
    }
  }
}

}  // namespace

Json ToJson(const client::Prediction& prediction, const client::Model& model, int64_t first_row) {
  const int64_t outputs = prediction.outputs;
  const bool categorical = model.likelihood == client::Likelihood::kCategorical;
  const int64_t split = prediction.batch ? prediction.epistemic.size() / prediction.batch : 0;
  Json json = {{"model", prediction.model},
               {"version", prediction.version},
               {"posterior_id", prediction.posterior_id},
               {"prior_precision", prediction.prior_precision},
               {"ood_thresholds", Thresholds(prediction.ood_scores)},
               {"timing", ToJson(prediction.timing)}};
  json["rows"] = Json::array();
  for (int64_t row = 0; row < prediction.batch; ++row) {
    Json item = {{"row", first_row + row}};
    AddPredicted(prediction, model, row, item);
    item["mean"] = Row(prediction.mean, row, outputs);
    item["map_mean"] = Row(prediction.map_mean, row, outputs);
    item["functional_mean"] = Row(prediction.functional_mean, row, outputs);
    item["functional_variance"] = Row(prediction.functional_variance, row, outputs);
    if (!prediction.functional_covariance.empty()) {
      item["functional_covariance"] = Json::array();
      for (int64_t c = 0; c < outputs; ++c) {
        item["functional_covariance"].push_back(
            Row(prediction.functional_covariance, row * outputs + c, outputs));
      }
    }
    if (split == 1 && categorical) {
      item["epistemic"] = prediction.epistemic[row];
      item["aleatoric"] = prediction.aleatoric[row];
    } else {
      item["epistemic"] = Row(prediction.epistemic, row, split);
      item["aleatoric"] = Row(prediction.aleatoric, row, split);
    }
    item["ood_scores"] = RowScores(prediction.ood_scores, row);
    json["rows"].push_back(std::move(item));
  }
  return json;
}

Json ToJson(const client::Scores& scores, int64_t first_row) {
  Json json = {{"model", scores.model},
               {"version", scores.version},
               {"posterior_id", scores.posterior_id},
               {"ood_thresholds", Thresholds(scores.ood_scores)},
               {"timing", ToJson(scores.timing)}};
  json["rows"] = Json::array();
  const size_t rows = scores.ood_scores.empty() ? 0 : scores.ood_scores[0].values.size();
  for (size_t row = 0; row < rows; ++row) {
    json["rows"].push_back(
        {{"row", first_row + row}, {"ood_scores", RowScores(scores.ood_scores, row)}});
  }
  return json;
}

}  // namespace laplace::cli
