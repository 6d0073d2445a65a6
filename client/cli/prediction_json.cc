// Predictions and scores as JSON.
#include <string>
#include <utility>
#include <vector>

#include "client/cli/json_output.h"
#include "client/cli/metrics.h"
#include "client/cli/mode_options.h"

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

Json VarianceJson(client::VarianceMode mode, int64_t samples, double estimated_flops) {
  Json json = {{"mode", VarianceModeName(mode)}, {"estimated_flops", estimated_flops}};
  if (samples > 0) json["samples"] = samples;
  return json;
}

Json VarianceJson(const client::Prediction& prediction) {
  Json json =
      VarianceJson(prediction.variance_mode, prediction.samples, prediction.estimated_flops);
  if (prediction.top_classes > 0) json["top_classes"] = prediction.top_classes;
  if (prediction.samples > 0) json["relative_error"] = prediction.variance_relative_error;
  return json;
}

// One list of outputs for each function.
void AddFunctions(const client::Prediction& prediction, int64_t row, Json& item) {
  const auto stride = static_cast<size_t>(prediction.batch * prediction.outputs);
  if (prediction.function_samples.empty()) return;
  item["function_samples"] = Json::array();
  for (size_t draw = 0; draw < prediction.function_samples.size() / stride; ++draw) {
    item["function_samples"].push_back(Row(prediction.function_samples,
                                           static_cast<int64_t>(draw) * prediction.batch + row,
                                           prediction.outputs));
  }
}

// [B][C][B][C].
void AddJointCovariance(const client::Prediction& prediction, Json& json) {
  const int64_t b = prediction.batch, c = prediction.outputs;
  Json& joint = json["joint_covariance"] = Json::array();
  for (int64_t n = 0; n < b; ++n) {
    joint.push_back(Json::array());
    for (int64_t i = 0; i < c; ++i) {
      Json rows = Json::array();
      for (int64_t k = 0; k < b; ++k) {
        rows.push_back(Row(prediction.joint_covariance, (n * c + i) * b + k, c));
      }
      joint.back().push_back(std::move(rows));
    }
  }
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
  const int64_t width = prediction.variance_width;
  const int64_t split = prediction.batch ? prediction.epistemic.size() / prediction.batch : 0;
  Json json = {{"model", prediction.model},
               {"version", prediction.version},
               {"posterior_id", prediction.posterior_id},
               {"prior_precision", prediction.prior_precision},
               {"temperature", prediction.temperature},
               {"variance", VarianceJson(prediction)},
               {"ood_thresholds", Thresholds(prediction.ood_scores)},
               {"timing", ToJson(prediction.timing)}};
  json["rows"] = Json::array();
  for (int64_t row = 0; row < prediction.batch; ++row) {
    Json item = {{"row", first_row + row}};
    AddPredicted(prediction, model, row, item);
    item["mean"] = Row(prediction.mean, row, outputs);
    item["map_mean"] = Row(prediction.map_mean, row, outputs);
    item["functional_mean"] = Row(prediction.functional_mean, row, outputs);
    item["functional_variance"] = Row(prediction.functional_variance, row, width);
    if (!prediction.functional_covariance.empty()) {
      item["functional_covariance"] = Json::array();
      for (int64_t c = 0; c < width; ++c) {
        item["functional_covariance"].push_back(
            Row(prediction.functional_covariance, row * width + c, width));
      }
    }
    if (!prediction.variance_outputs.empty()) {
      item["variance_outputs"] = Row(prediction.variance_outputs, row, width);
      item["left_out_probability"] = prediction.left_out_probability[row];
      item["left_out_bound"] = prediction.left_out_bound[row];
    }
    AddFunctions(prediction, row, item);
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
  if (!prediction.joint_covariance.empty()) AddJointCovariance(prediction, json);
  return json;
}

Json ToJson(const client::Scores& scores, int64_t first_row) {
  Json json = {
      {"model", scores.model},
      {"version", scores.version},
      {"posterior_id", scores.posterior_id},
      {"variance", VarianceJson(scores.variance_mode, scores.samples, scores.estimated_flops)},
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
