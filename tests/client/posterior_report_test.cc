#include "client/cli/posterior_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "client/cli/curvature_tables.h"

namespace laplace::cli {
namespace {

using client::Posterior;
using ::testing::HasSubstr;
using ::testing::Not;

Posterior LowRank() {
  Posterior posterior;
  posterior.id = "p-1";
  posterior.model = "digits";
  posterior.version = 3;
  posterior.options.structure = client::Structure::kLowRank;
  posterior.options.curvature = client::Curvature::kGgn;
  posterior.options.debiasing = client::Debiasing::kTwoBatch;
  posterior.options.residual = client::Residual::kLayerwise;
  posterior.options.direction_batch_size = 1024;
  posterior.options.curvature_batch_size = 4096;
  posterior.options.temperature = 1;
  posterior.n_parameters = 12345;
  posterior.rank = 3;
  posterior.prior_precision = 0.5;
  posterior.biased_eigenvalues = {4, 2, 1};
  posterior.eigenvalues = {2, 1.6, 1};
  posterior.standard_errors = {0.1, 0.2, 0.3};
  posterior.curvature_count = 4096;
  posterior.trace = 9.2;
  posterior.trace_standard_error = 0.4;
  posterior.residual = 0.25;
  posterior.residual_share = 0.5;
  posterior.blocks = {{"body.weight", 12000, "directions", 9, 0.5, 0, 0},
                      {"body.bias", 345, "directions", 0.2, 0.001, 0, 0}};
  return posterior;
}

Posterior Kfac() {
  Posterior posterior = LowRank();
  posterior.options.structure = client::Structure::kKfac;
  posterior.options.kfac_eigenvalues = client::KfacEigenvalues::kExact;
  posterior.options.residual = client::Residual::kDefault;
  posterior.rank = 0;
  posterior.biased_eigenvalues.clear();
  posterior.eigenvalues.clear();
  posterior.standard_errors.clear();
  posterior.blocks = {{"body.weight", 12000, "kronecker", 9, 0, 12, 8},
                      {"body.bias", 345, "dense", 0.2, 0, 0.3, 0}};
  return posterior;
}

TEST(CurvatureTablesTest, ShowWhatDebiasingChanged) {
  EXPECT_EQ(CurvatureTables(LowRank(), 2),
            "DIRECTION  BIASED  DEBIASED   +-  BIASED/DEBIASED\n"
            "        1       4         2  0.1                2\n"
            "        2       2       1.6  0.2             1.25\n"
            "... and 1 more\n");
}

TEST(CurvatureTablesTest, ShowParameterTensorsIfAllIsAskedFor) {
  EXPECT_EQ(CurvatureTables(LowRank(), -1),
            "DIRECTION  BIASED  DEBIASED   +-  BIASED/DEBIASED\n"
            "        1       4         2  0.1                2\n"
            "        2       2       1.6  0.2             1.25\n"
            "        3       1         1  0.3                1\n"
            "\n"
            "PARAMETER      SIZE  TRACE  RESIDUAL\n"
            "body.weight  12,000      9       0.5\n"
            "body.bias       345    0.2     0.001\n");
}

TEST(CurvatureTablesTest, SayHowTheTwoSetsOfCrossFitStand) {
  Posterior posterior = LowRank();
  posterior.options.debiasing = client::Debiasing::kCrossFit;
  EXPECT_EQ(CurvatureTables(posterior, 1),
            "DIRECTION  BIASED  DEBIASED   +-  BIASED/DEBIASED\n"
            "        1       4         2  0.1                2\n"
            "... and 2 more\n"
            "cross-fit: the directions of the first batch, then those of the second one, each "
            "measured on the other batch; each set counts half\n");
  // 4.6 is the sum of the eigenvalues; half of it is 25 % of the trace.
  EXPECT_THAT(PosteriorSummary(posterior), HasSubstr("25.0 % in the directions"));
  EXPECT_THAT(PosteriorSummary(posterior),
              HasSubstr("cross-fit, directions from 1,024 examples and from 4,096, curvature "
                        "from the other ones"));
}

TEST(CurvatureTablesTest, LeaveOutWhatThereIsNot) {
  Posterior posterior = LowRank();
  posterior.biased_eigenvalues.clear();
  posterior.standard_errors.clear();
  EXPECT_EQ(CurvatureTables(posterior, 1),
            "DIRECTION  CURVATURE\n"
            "        1          2\n"
            "... and 2 more\n");
  posterior = LowRank();
  posterior.eigenvalues = {0, 0, 0};  // clipped
  EXPECT_THAT(CurvatureTables(posterior, 1), HasSubstr("        1       4         0  0.1"
                                                       "                -\n"));
}

TEST(CurvatureTablesTest, ShowTheBlocksOfKfac) {
  const std::string all =
      "PARAMETER      SIZE  KIND       BIASED SUM  DEBIASED SUM  BIASED/DEBIASED\n"
      "body.weight  12,000  kronecker          12             8              1.5\n"
      "body.bias       345  dense             0.3             0                -\n";
  EXPECT_EQ(CurvatureTables(Kfac(), -1), all);
  EXPECT_THAT(CurvatureTables(Kfac(), 1), HasSubstr("... and 1 more\n"));
}

TEST(PosteriorSummaryTest, SaysWhatALowRankPosteriorIs) {
  const std::string text = PosteriorSummary(LowRank());
  for (const char* line :
       {"structure             low-rank\n", "curvature             ggn\n",
        "directions            3 of 12,345 dimensions\n",
        "debiasing             two-batch, directions from 1,024 examples, curvature from 4,096\n",
        "curvature (trace)     9.2 +- 0.4, 50.0 % in the directions\n",
        "residual              layerwise, 0.25 per dimension, 50.0 % of the trace\n",
        "prior precision       0.5\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  for (const char* absent :
       {"temperature", "noise std", "peak memory", "updated from", "clipped", "variances"}) {
    EXPECT_THAT(text, Not(HasSubstr(absent)));
  }
}

TEST(PosteriorSummaryTest, SaysWhatIsUnusual) {
  Posterior posterior = LowRank();
  posterior.options.curvature = client::Curvature::kMcFisher;
  posterior.options.fisher_samples = 2;
  posterior.options.parameters = {"head.*", "fc.weight"};
  posterior.options.temperature = 0.5;
  posterior.options.noise_method = client::NoiseMethod::kData;
  posterior.options.sigma_noise = 0.25;
  posterior.options.variance_correction = true;
  posterior.curvature_count = 1000;
  posterior.clipped_directions = 2;
  posterior.parent_posterior_id = "p-0";
  posterior.updated_examples = 1500;
  posterior.cost.peak_memory_bytes = int64_t{1} << 30;
  const std::string text = PosteriorSummary(posterior);
  for (const char* line :
       {"structure             low-rank, only head.*, fc.weight\n",
        "curvature             mc-fisher, targets drawn for each example: 2\n",
        "temperature           0.5\n", "noise std             0.25 (from the training residuals)\n",
        "variances             corrected for the uncertainty of the curvature\n",
        "curvature from 1,000 of 4,096\n",
        "clipped               2 directions had curvature below zero, which counts as zero\n",
        "updated from          p-0, 1,500 examples added in all\n",
        "peak memory           1.0 GiB more than before\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST(PosteriorSummaryTest, SaysWhereThePriorPrecisionComesFrom) {
  Posterior posterior = LowRank();
  posterior.prior_candidates = {{0.25, 0.5, -10}, {0.5, 0.4, -11}, {1, 0.3, -12}};
  posterior.validation_nll_map = 0.75;
  const auto prior = [&posterior](client::PriorMethod method) {
    posterior.options.prior_method = method;
    const std::string text = PosteriorSummary(posterior);
    const size_t begin = text.find("prior precision") + 22;
    return text.substr(begin, text.find('\n', begin) - begin);
  };
  EXPECT_EQ(prior(client::PriorMethod::kGiven), "0.5 (given)");
  EXPECT_EQ(prior(client::PriorMethod::kWeightDecay), "0.5 (training examples x weight decay)");
  EXPECT_EQ(prior(client::PriorMethod::kEvidence), "0.5 (maximises the log evidence)");
  EXPECT_EQ(prior(client::PriorMethod::kValidation), "0.5 (tuned; validation NLL 0.75 -> 0.4)");
  EXPECT_EQ(prior(client::PriorMethod::kDefault), "0.5 (tuned; validation NLL 0.75 -> 0.4)");
}

TEST(PosteriorSummaryTest, SaysWhichExamplesMeasured) {
  Posterior posterior = LowRank();
  posterior.options.debiasing = client::Debiasing::kNone;
  EXPECT_THAT(PosteriorSummary(posterior),
              HasSubstr("none, directions and curvature from 1,024 examples\n"));
  posterior.options.debiasing = client::Debiasing::kFullPass;
  posterior.options.curvature_batch_size = 0;
  posterior.curvature_count = 60000;
  EXPECT_THAT(PosteriorSummary(posterior),
              HasSubstr("full-pass, directions from 1,024 examples, curvature from 60,000\n"));
}

TEST(PosteriorSummaryTest, SaysWhatOtherStructuresAre) {
  const std::string kfac = PosteriorSummary(Kfac());
  EXPECT_THAT(kfac, HasSubstr("structure             kfac, eigenvalues exact\n"));
  EXPECT_THAT(kfac, HasSubstr("parameters            12,345 in 2 tensors\n"));
  EXPECT_THAT(kfac, HasSubstr("two-batch, eigenvectors from 1,024 examples"));
  EXPECT_THAT(kfac, HasSubstr("curvature (trace)     9.2 +- 0.4\n"));
  EXPECT_THAT(kfac, Not(HasSubstr("residual")));
  EXPECT_THAT(kfac, Not(HasSubstr("directions")));

  Posterior last_layer = LowRank();
  last_layer.options.structure = client::Structure::kLastLayer;
  last_layer.curvature_count = 60000;
  const std::string text = PosteriorSummary(last_layer);
  EXPECT_THAT(text, HasSubstr("measured on           60,000 examples\n"));
  EXPECT_THAT(text, Not(HasSubstr("debiasing")));
  EXPECT_THAT(text, Not(HasSubstr("residual")));
}

TEST(PosteriorSummaryTest, SaysWhichOodScoresThereAreAndWhereThresholdsComeFrom) {
  Posterior posterior = LowRank();
  EXPECT_THAT(PosteriorSummary(posterior), Not(HasSubstr("\nOOD scores")));
  EXPECT_THAT(PosteriorSummary(posterior), Not(HasSubstr("feature layer")));
  posterior.features = client::FeatureSummary{"body.weight", 64, 50000, 5000, 50, 10};
  posterior.available_ood_scores = {"msp", "mahalanobis", "variance"};
  posterior.default_ood_score = "variance";
  posterior.calibration_dataset_id = "sha256-0123456789abcdef";
  posterior.ood_thresholds = {{"msp", 0.5, 0.05, 2000, 0.041, 0.061, {}},
                              {"variance", 7.25, 0.05, 2000, 0.041, 0.061, {}}};
  const std::string text = PosteriorSummary(posterior);
  EXPECT_THAT(text, HasSubstr("feature layer         body.weight, 64 features of 50,000 examples\n"
                              "feature bank          5,000 examples, k = 50\n"
                              "OOD scores            msp, mahalanobis, variance\n"));
  EXPECT_THAT(text, HasSubstr("OOD SCORE   THRESHOLD  AIMS TO FLAG  95 % INTERVAL   CALIBRATED ON\n"
                              "msp               0.5         5.0 %  4.1 % to 6.1 %          2,000\n"
                              "variance *       7.25         5.0 %  4.1 % to 6.1 %          2,000\n"
                              "* the default score\n"
                              "calibrated on data set sha256-0123456789ab\n"));
  posterior.available_ood_scores.assign(12, "mahalanobis");
  EXPECT_THAT(PosteriorSummary(posterior),
              HasSubstr("mahalanobis,\n                      mahalanobis"));
}

// A server of release 0.1 sends none of the new fields.
TEST(PosteriorSummaryTest, CopesWithOlderServers) {
  Posterior posterior = LowRank();
  posterior.options.structure = client::Structure::kDefault;
  posterior.options.curvature = client::Curvature::kDefault;
  posterior.options.temperature = 0;
  posterior.options.residual = client::Residual::kIsotropic;
  posterior.curvature_count = 0;
  posterior.residual_share = 0;
  posterior.blocks.clear();
  const std::string text = PosteriorSummary(posterior);
  EXPECT_THAT(text, HasSubstr("curvature from 4,096\n"));
  EXPECT_THAT(text, HasSubstr("residual              isotropic, 0.25 per dimension\n"));
  EXPECT_THAT(text, Not(HasSubstr("temperature")));
  EXPECT_THAT(text, Not(HasSubstr("default")));
  EXPECT_THAT(CurvatureTables(posterior, -1), Not(HasSubstr("PARAMETER")));
}

}  // namespace
}  // namespace laplace::cli
