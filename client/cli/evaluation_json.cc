#include <string>

#include "client/cli/evaluation_report.h"
#include "client/cli/json_output.h"
#include "client/cli/mode_options.h"

namespace laplace::cli {
namespace {

Json ToJson(const Estimate& estimate) {
  Json json = {{"value", estimate.value}};
  if (estimate.interval) json["interval"] = {estimate.interval->lower, estimate.interval->upper};
  return json;
}

Json SetJson(const ScoredSet& set) {
  return {{"name", set.name}, {"file", set.file}, {"n", set.rows}};
}

Json ToJson(const ScoreEvaluation& score, const std::vector<ScoredSet>& ood) {
  Json json = {{"name", score.name}, {"default", score.is_default}};
  if (!ood.empty()) json["mean_auroc"] = ToJson(score.mean_auroc);
  if (score.threshold) {
    json["threshold"] = {{"value", *score.threshold}, {"target_id_rate", score.target_id_rate}};
    json["id_flagged"] = ToJson(*score.id_flagged);
  }
  if (score.calibration) {
    json["calibration"] = {{"n", score.calibration->count},
                           {"rate_lower", score.calibration->rate_lower},
                           {"rate_upper", score.calibration->rate_upper}};
  }
  Json& sets = json["ood"] = Json::object();
  for (size_t t = 0; t < ood.size(); ++t) {
    Json& set = sets[ood[t].name];
    for (int metric = 0; metric < kDetectionMetrics; ++metric) {
      set[DetectionMetricName(metric)] = ToJson(score.sets[t].metrics[metric]);
    }
    if (score.sets[t].flagged) set["flagged"] = ToJson(*score.sets[t].flagged);
  }
  return json;
}

}  // namespace

Json ToJson(const Evaluation& evaluation) {
  Json json = {{"model", evaluation.model},
               {"version", evaluation.version},
               {"posterior_id", evaluation.posterior_id},
               {"likelihood", LikelihoodName(evaluation.likelihood)},
               {"variance_mode", VarianceModeName(evaluation.variance_mode)}};
  if (evaluation.samples > 0) json["samples"] = evaluation.samples;
  json["bootstrap"] = {{"replicates", evaluation.bootstrap.replicates},
                       {"confidence", evaluation.bootstrap.confidence},
                       {"seed", evaluation.bootstrap.seed}};
  json["id"] = SetJson(evaluation.id);
  if (!evaluation.quality.empty()) {
    Json& metrics = json["metrics"];
    for (const QualityEvaluation& row : evaluation.quality) {
      metrics["plain_network"][row.metric] = ToJson(row.plain_network);
      metrics["laplace"][row.metric] = ToJson(row.laplace);
    }
  }
  json["ood"] = Json::array();
  for (const ScoredSet& set : evaluation.ood) json["ood"].push_back(SetJson(set));
  json["scores"] = Json::array();
  for (const ScoreEvaluation& score : evaluation.scores) {
    json["scores"].push_back(ToJson(score, evaluation.ood));
  }
  return json;
}

}  // namespace laplace::cli
