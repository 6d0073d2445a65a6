#include "client/cli/fit_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace laplace::cli {
namespace {

using client::FitOptions;
using ::testing::ElementsAre;

// What the flags of `laplace fit` make of the options.
FitOptions Parsed(const std::string& flags) {
  CLI::App app;
  FitOptions options;
  AddFitOptions(app, options);
  app.parse(flags);
  return options;
}

// Every flag, and no two alike.
const std::vector<std::string> kFlags = {"--structure kfac",
                                         "--structure last-layer",
                                         "--structure low-rank",
                                         "--rank 7",
                                         "--residual layerwise",
                                         "--residual isotropic",
                                         "--residual diagonal",
                                         "--residual none",
                                         "--kfac-eigenvalues exact",
                                         "--kfac-eigenvalues factors",
                                         "--parameters head.*",
                                         "--temperature 0.5",
                                         "--curvature ggn",
                                         "--curvature mc-fisher",
                                         "--curvature empirical-fisher",
                                         "--curvature hessian",
                                         "--fisher-samples 3",
                                         "--debiasing two-batch",
                                         "--debiasing none",
                                         "--debiasing cross-fit",
                                         "--debiasing full-pass",
                                         "--b1 10",
                                         "--b2 20",
                                         "--relative-error 0.1",
                                         "--variance-correction",
                                         "--seed 4",
                                         "--prior-method given",
                                         "--prior-method weight-decay",
                                         "--prior-method evidence",
                                         "--prior-method validation",
                                         "--prior-precision 2",
                                         "--ood-prior-precision 3",
                                         "--noise-method given",
                                         "--noise-method manifest",
                                         "--noise-method data",
                                         "--noise-method evidence",
                                         "--sigma-noise 0.2",
                                         "--tolerance 0.01",
                                         "--max-products 99",
                                         "--memory-limit 2M",
                                         "--target-id-rate 0.2",
                                         "--max-validation 50"};

TEST(SameOptionsTest, ComparesEveryOptionThatIsGiven) {
  for (const std::string& flag : kFlags) {
    SCOPED_TRACE(flag);
    EXPECT_TRUE(SameOptions(Parsed(flag), Parsed(flag)));
    for (const std::string& other : kFlags) {
      if (other == flag) continue;
      EXPECT_FALSE(SameOptions(Parsed(flag), Parsed(other))) << other;
    }
    EXPECT_FALSE(SameOptions(Parsed(flag), FitOptions()));
    // What is not given may be anything, but for the seed, which is 0 then.
    EXPECT_EQ(SameOptions(FitOptions(), Parsed(flag)), flag != "--seed 4");
  }
}

TEST(AddFitOptionsTest, FillsTheOptions) {
  const FitOptions options = Parsed(
      "--parameters 'head.*,fc.weight' --parameters body.? --memory-limit 3G "
      "--structure kfac --kfac-eigenvalues factors --prior-method evidence "
      "--noise-method data --curvature mc-fisher --fisher-samples 2 --relative-error 0.05 "
      "--debiasing full-pass --residual diagonal --temperature 0.25 --sigma-noise 0.1 "
      "--variance-correction");
  EXPECT_THAT(options.parameters, ElementsAre("head.*", "fc.weight", "body.?"));
  EXPECT_EQ(options.memory_limit_bytes, int64_t{3} << 30);
  EXPECT_EQ(options.structure, client::Structure::kKfac);
  EXPECT_EQ(options.kfac_eigenvalues, client::KfacEigenvalues::kFactors);
  EXPECT_EQ(options.prior_method, client::PriorMethod::kEvidence);
  EXPECT_EQ(options.noise_method, client::NoiseMethod::kData);
  EXPECT_EQ(options.curvature, client::Curvature::kMcFisher);
  EXPECT_EQ(options.fisher_samples, 2);
  EXPECT_EQ(options.target_relative_standard_error, 0.05);
  EXPECT_EQ(options.debiasing, client::Debiasing::kFullPass);
  EXPECT_EQ(options.residual, client::Residual::kDiagonal);
  EXPECT_EQ(options.temperature, 0.25);
  EXPECT_EQ(options.sigma_noise, 0.1);
  EXPECT_TRUE(options.variance_correction);
}

TEST(ParseBytesTest, TakesPowersOf1024AndPlainNumbers) {
  EXPECT_EQ(*ParseBytes("1000000"), 1000000);
  EXPECT_EQ(*ParseBytes("64K"), 64 << 10);
  EXPECT_EQ(*ParseBytes("512M"), 512 << 20);
  EXPECT_EQ(*ParseBytes("2g"), int64_t{2} << 30);
  EXPECT_EQ(*ParseBytes("1T"), int64_t{1} << 40);
  for (const char* bad :
       {"", "0", "-1", "M", "1.5G", "2GB", "G2", "99999999999999999999", "8388608T", "0x10"}) {
    EXPECT_EQ(ParseBytes(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_EQ(*ParseBytes("8388607T"), int64_t{8388607} << 40);
}

}  // namespace
}  // namespace laplace::cli
