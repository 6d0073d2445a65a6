#include "client/cli/evaluation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "client/cli/evaluation_report.h"
#include "client/cli/evaluation_sets.h"
#include "client/cli/prediction_quality.h"

namespace laplace::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

client::OodScore Score(const std::string& name, std::vector<double> values,
                       absl::optional<double> threshold = absl::nullopt) {
  client::OodScore score;
  score.name = name;
  score.values = std::move(values);
  score.threshold = threshold;
  score.target_id_rate = 0.25;
  if (threshold) {
    for (double value : score.values) score.is_ood.push_back(value > *threshold);
  }
  return score;
}

ScoredSet Set(const std::string& name, std::vector<client::OodScore> scores) {
  const auto rows = static_cast<int64_t>(scores[0].values.size());
  return {name, name + ".npz", rows, std::move(scores)};
}

client::Posterior PosteriorWith(const std::string& default_score) {
  client::Posterior posterior;
  posterior.default_ood_score = default_score;
  posterior.ood_thresholds = {{"b", 3.5, 0.25, 40, 0.125, 0.375, {}}};
  return posterior;
}

const ScoredSet kId = Set("id", {Score("a", {1, 2, 3, 4}), Score("b", {1, 2, 3, 4}, 3.5)});
const std::vector<ScoredSet> kOod = {
    Set("near", {Score("a", {0, 3}), Score("b", {3, 5}, 3.5)}),
    Set("far", {Score("a", {9, 9, 9}), Score("b", {9, 9, 1}, 3.5)})};

TEST(EvaluateScoresTest, RanksByMeanAuroc) {
  const auto scores = EvaluateScores(kId, kOod, PosteriorWith("a"), {});
  ASSERT_EQ(scores.size(), 2u);
  // b: (2.5 + 4) / 8 and (4 + 4 + 0.5) / 12; a: 2.5 / 8 and 1.
  EXPECT_EQ(scores[0].name, "b");
  EXPECT_DOUBLE_EQ(scores[0].mean_auroc.value, (6.5 / 8 + 8.5 / 12) / 2);
  EXPECT_FALSE(scores[0].is_default);
  EXPECT_EQ(scores[1].name, "a");
  EXPECT_DOUBLE_EQ(scores[1].mean_auroc.value, (2.5 / 8 + 1) / 2);
  EXPECT_TRUE(scores[1].is_default);
  EXPECT_DOUBLE_EQ(scores[1].sets[0].metrics[kAuroc].value, 2.5 / 8);
  EXPECT_DOUBLE_EQ(scores[1].sets[1].metrics[kAuroc].value, 1);
}

TEST(EvaluateScoresTest, ThresholdsHaveRatesBesideTheirTargets) {
  const auto scores = EvaluateScores(kId, kOod, PosteriorWith("a"), {});
  ASSERT_TRUE(scores[0].id_flagged && scores[0].calibration && scores[0].sets[1].flagged);
  EXPECT_DOUBLE_EQ(scores[0].id_flagged->value, 0.25);
  const Interval exact = BinomialInterval(1, 4, 0.95);
  EXPECT_EQ(scores[0].id_flagged->interval->lower, exact.lower);
  EXPECT_EQ(scores[0].id_flagged->interval->upper, exact.upper);
  EXPECT_EQ(scores[0].calibration->count, 40);
  EXPECT_DOUBLE_EQ(scores[0].sets[1].flagged->value, 2.0 / 3);
  EXPECT_FALSE(scores[1].id_flagged || scores[1].calibration || scores[1].sets[0].flagged);
}

TEST(EvaluateScoresTest, WithoutReplicatesThereAreNoIntervals) {
  BootstrapOptions options;
  options.replicates = 0;
  const auto scores = EvaluateScores(kId, kOod, PosteriorWith("a"), options);
  EXPECT_FALSE(scores[0].mean_auroc.interval);
  EXPECT_FALSE(scores[0].sets[0].metrics[kAuprIn].interval);
  EXPECT_DOUBLE_EQ(scores[0].mean_auroc.value, (6.5 / 8 + 8.5 / 12) / 2);
}

TEST(EvaluateScoresTest, ScoresThatAreNotNumbersComeLast) {
  const ScoredSet id = Set("id", {Score("nan", {1, std::nan("")}), Score("bad", {2, 3})});
  const auto scores = EvaluateScores(id, {Set("o", {Score("nan", {1}), Score("bad", {1})})},
                                     PosteriorWith("bad"), {});
  EXPECT_EQ(scores[0].name, "bad");
  EXPECT_TRUE(std::isnan(scores[1].mean_auroc.value));
  EXPECT_FALSE(scores[1].mean_auroc.interval);
}

std::vector<double> Normal(int seed, int count, double mean) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<double> normal(mean, 1);
  std::vector<double> values(count);
  for (double& value : values) value = normal(generator);
  return values;
}

TEST(EvaluateScoresTest, IntervalsDependOnTheSeedAloneAndHoldTheValue) {
  const ScoredSet id = Set("id", {Score("s", Normal(1, 300, 0)), Score("t", Normal(2, 300, 0))});
  const std::vector<ScoredSet> ood = {
      Set("near", {Score("s", Normal(3, 200, 1)), Score("t", Normal(4, 200, 2))}),
      Set("far", {Score("s", Normal(5, 250, 2)), Score("t", Normal(6, 250, 3))})};
  BootstrapOptions options;
  options.replicates = 201;
  options.threads = 1;
  const auto one = EvaluateScores(id, ood, PosteriorWith("s"), options);
  options.threads = 5;
  const auto five = EvaluateScores(id, ood, PosteriorWith("s"), options);
  options.seed = 1;
  const auto other = EvaluateScores(id, ood, PosteriorWith("s"), options);
  for (size_t s = 0; s < one.size(); ++s) {
    for (size_t t = 0; t < ood.size(); ++t) {
      for (int metric = 0; metric < kDetectionMetrics; ++metric) {
        const Estimate& estimate = one[s].sets[t].metrics[metric];
        ASSERT_TRUE(estimate.interval);
        EXPECT_LT(estimate.interval->lower, estimate.value) << DetectionMetricName(metric);
        EXPECT_GT(estimate.interval->upper, estimate.value) << DetectionMetricName(metric);
        EXPECT_EQ(estimate.interval->lower, five[s].sets[t].metrics[metric].interval->lower);
        EXPECT_EQ(estimate.interval->upper, five[s].sets[t].metrics[metric].interval->upper);
      }
    }
    EXPECT_NE(one[s].mean_auroc.interval->lower, other[s].mean_auroc.interval->lower);
  }
}

TEST(EvaluateScoresTest, ConstantMetricsHaveIntervalsWithoutWidth) {
  const auto scores = EvaluateScores(Set("id", {Score("a", {1, 2, 3})}),
                                     {Set("o", {Score("a", {4, 5})})}, PosteriorWith("a"), {});
  for (const Estimate& estimate : scores[0].sets[0].metrics) {
    ASSERT_TRUE(estimate.interval);
    EXPECT_EQ(estimate.interval->lower, estimate.value);
    EXPECT_EQ(estimate.interval->upper, estimate.value);
  }
}

TEST(EstimateMetricsTest, IntervalOfAMeanIsThatOfTheNormalTheory) {
  ExampleMetric metric;
  metric.parts = Normal(9, 2000, 3);
  metric.n_examples = 2000;
  const Estimate estimate = EstimateMetrics({metric}, {})[0];
  double square = 0;
  for (double part : metric.parts) square += (part - estimate.value) * (part - estimate.value);
  const double half = 1.96 * std::sqrt(square / 2000 / 2000);
  // A quantile of 1,000 replicates is known to about a tenth of `half`.
  EXPECT_NEAR(estimate.interval->lower, estimate.value - half, 0.1 * half);
  EXPECT_NEAR(estimate.interval->upper, estimate.value + half, 0.1 * half);
}

TEST(PredictionQualityTest, RegressionAddsTheEpistemicVarianceToTheNoise) {
  client::Model model;
  model.likelihood = client::Likelihood::kGaussian;
  model.n_outputs = 1;
  client::Prediction prediction;
  prediction.outputs = 1;
  prediction.mean = prediction.map_mean = {0, 0};
  prediction.aleatoric = {1, 1};
  prediction.epistemic = {3, 3};
  Truth truth;
  truth.targets = {0, 3};
  const auto plain = PlainNetworkMetrics(model, prediction, truth);
  const auto laplace = LaplaceMetrics(model, prediction, truth);
  ASSERT_EQ(plain.size(), 3u);
  EXPECT_EQ(plain[1].name, "nll");
  EXPECT_DOUBLE_EQ(Value(plain[1]), 0.5 * std::log(2 * M_PI) + 9.0 / 4);
  EXPECT_DOUBLE_EQ(Value(laplace[1]), 0.5 * std::log(2 * M_PI * 4) + 9.0 / 16);
  EXPECT_EQ(Value(plain[2]), 0.5);
  EXPECT_EQ(Value(laplace[2]), 1);
}

TEST(PredictionQualityTest, RegressionTargetsAreFloatsOfTheRightWidth) {
  client::Model model;
  model.name = "waves";
  model.likelihood = client::Likelihood::kGaussian;
  model.n_outputs = 2;
  client::Array targets;
  targets.dtype = client::DType::kFloat32;
  targets.shape = {3, 1};
  targets.bytes.resize(12);
  const auto wrong = ReadTruth(model, targets);
  EXPECT_EQ(wrong.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(wrong.status().message()), HasSubstr("of shape [N, 2], got float32"));
  model.n_outputs = 1;
  targets.shape = {3};
  EXPECT_EQ(ReadTruth(model, targets)->targets, (std::vector<double>{0, 0, 0}));
}

std::vector<std::string> Names(const std::vector<SetFile>& sets) {
  std::vector<std::string> names;
  for (const SetFile& set : sets) names.push_back(set.name);
  return names;
}

TEST(NameSetsTest, FilesNameTheirSetsUnlessTheyAreNamed) {
  const auto sets = NameSets({"/data/mnist.npz", "noise=x/y.npy", "a/t10k.gz", "b/t10k.gz"});
  ASSERT_TRUE(sets.ok()) << sets.status();
  EXPECT_THAT(Names(*sets), ElementsAre("mnist", "noise", "t10k", "b/t10k.gz"));
  EXPECT_EQ((*sets)[1].path, "x/y.npy");
}

TEST(NameSetsTest, AFileWhoseNameHasAnEqualsSignIsAFile) {
  const std::string path = ::testing::TempDir() + "/k=3.npz";
  std::ofstream(path) << "x";
  const auto sets = NameSets({path});
  EXPECT_EQ((*sets)[0].name, "k=3");
  EXPECT_EQ((*sets)[0].path, path);
}

TEST(NameSetsTest, NamesAreDifferent) {
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{"n=a.npz", "n=b.npz"},
                                                    {"id=a.npz"},
                                                    {"a.npz", "a.npz", "a.npz"}}) {
    EXPECT_EQ(NameSets(arguments).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(AvailableScoresTest, LeaveOutWhatCannotBeSampled) {
  client::Posterior posterior;
  posterior.default_ood_score = "variance";
  for (const char* name : {"msp", "local_ensemble"}) {
    client::OodThreshold threshold;
    threshold.score = name;
    posterior.ood_thresholds.push_back(threshold);
  }
  EXPECT_THAT(AvailableScores(posterior, client::VarianceMode::kExact),
              ElementsAre("msp", "local_ensemble", "variance"));
  EXPECT_THAT(AvailableScores(posterior, client::VarianceMode::kSampled),
              ElementsAre("msp", "variance"));
  posterior.available_ood_scores = {"knn", "variance"};
  EXPECT_THAT(AvailableScores(posterior, client::VarianceMode::kExact),
              ElementsAre("knn", "variance"));
}

TEST(CheckScoresTest, AnswersHaveWhatWasAskedFor) {
  EXPECT_TRUE(CheckScores({"a", "b"}, kId).ok());
  EXPECT_EQ(CheckScores({"a"}, kId).code(), absl::StatusCode::kInternal);
  ScoredSet cut = kId;
  cut.scores[1].values.pop_back();
  EXPECT_THAT(std::string(CheckScores({"a", "b"}, cut).message()), HasSubstr("4 values of b"));
}

Evaluation Example() {
  Evaluation evaluation;
  evaluation.model = "digits";
  evaluation.version = 3;
  evaluation.posterior_id = "p-1";
  evaluation.likelihood = client::Likelihood::kCategorical;
  evaluation.variance_mode = client::VarianceMode::kExact;
  evaluation.bootstrap.replicates = 0;
  evaluation.id = kId;
  evaluation.ood = kOod;
  evaluation.quality = {{"nll", {0.5, Interval{0.25, 0.75}}, {0.4, {}}}};
  evaluation.scores = EvaluateScores(kId, kOod, PosteriorWith("a"), evaluation.bootstrap);
  return evaluation;
}

TEST(EvaluationTextTest, IsAsPublished) {
  // clang-format off
  EXPECT_EQ(
      EvaluationText(Example(), TextForm::kTable),
      "digits/3, posterior p-1, ID: 4 examples of id.npz, variances exact\n"
      "ON ID DATA            PLAIN NETWORK  WITH LAPLACE\n"
      "NLL         0.5000 [0.2500, 0.7500]        0.4000\n"
      "\n"
      "SCORE        MEAN AUROC   near    far  THRESHOLD     ID FLAGGED, %  TARGET, %  CALIBRATED, %\n"
      "b                 0.760  0.812  0.708        3.5  25.0 [0.6, 80.6]       25.0   [12.5, 37.5]\n"
      "a (default)       0.656  0.312  1.000\n"
      "\n"
      "near: 2 examples of near.npz\n"
      "SCORE        AUROC  AUPR-IN  AUPR-OUT  FPR95, OOD POSITIVE  FPR95, ID POSITIVE    OOD FLAGGED, %\n"
      "b            0.812    0.887     0.750                0.500               0.500  50.0 [1.3, 98.7]\n"
      "a (default)  0.312    0.608     0.333                1.000               1.000\n"
      "\n"
      "far: 3 examples of far.npz\n"
      "SCORE        AUROC  AUPR-IN  AUPR-OUT  FPR95, OOD POSITIVE  FPR95, ID POSITIVE    OOD FLAGGED, %\n"
      "b            0.708    0.679     0.810                1.000               0.333  66.7 [9.4, 99.2]\n"
      "a (default)  1.000    1.000     1.000                0.000               0.000\n"
      "\n"
      "AUROC: chance that an OOD example scores above an ID one.\n"
      "AUPR-IN, AUPR-OUT: average precision with ID and with OOD as positive.\n"
      "FPR95, OOD positive (OpenOOD): share of ID flagged where 95 % of OOD are caught.\n"
      "FPR95, ID positive (ODIN, Hendrycks): share of OOD accepted where 95 % of ID are accepted.\n"
      "FLAGGED: share above the threshold. CALIBRATED: 95 % interval of the ID rate that the posterior promises.\n");
  // clang-format on
}

TEST(EvaluationTextTest, IsMarkdownWithTheSameCells) {
  const std::string text = EvaluationText(Example(), TextForm::kMarkdown);
  EXPECT_THAT(text, HasSubstr("### digits/3, posterior p-1, ID: 4 examples of id.npz, variances "
                              "exact\n\n| ON ID DATA | PLAIN NETWORK | WITH LAPLACE |\n"
                              "|---|---:|---:|\n| NLL | 0.5000 [0.2500, 0.7500] | 0.4000 |\n\n"));
  EXPECT_THAT(text, HasSubstr("\n\n### near: 2 examples of near.npz\n\n| SCORE | AUROC |"));
  EXPECT_THAT(text, HasSubstr("\n| a (default) | 0.656 | 0.312 | 1.000 |  |  |  |  |\n"));
  EXPECT_THAT(text, HasSubstr("\n\n- AUROC: chance"));
}

TEST(EvaluationTextTest, LeavesOutWhatWasNotEvaluated) {
  Evaluation evaluation = Example();
  evaluation.ood.clear();
  evaluation.scores.clear();
  EXPECT_EQ(EvaluationText(evaluation, TextForm::kTable),
            "digits/3, posterior p-1, ID: 4 examples of id.npz, variances exact\n"
            "ON ID DATA            PLAIN NETWORK  WITH LAPLACE\n"
            "NLL         0.5000 [0.2500, 0.7500]        0.4000\n");
}

}  // namespace
}  // namespace laplace::cli
