// The demo network on real data: is it what the README says, is the debiased curvature unbiased,
// does the posterior detect?
//
// Needs Debian's package dataset-fashion-mnist; the MNIST part also needs the shared data beside
// the repository. What is missing is skipped with a message.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "server/curvature/ggn_operator.h"
#include "server/data/sampler.h"
#include "server/laplace/fit.h"
#include "server/laplace/predictive.h"
#include "server/linalg/lanczos.h"

namespace laplaced {
namespace {

const char* const kFashion = "/usr/share/datasets/fashion-mnist/";
const char* const kNetwork = LAPLACED_SOURCE_DIR "/tests/data/fashion_cnn/";
const char* const kMnist = LAPLACED_SOURCE_DIR "/../shared/data/mnist_t10k/";

EmpiricalRisk LoadRisk(const std::string& split) {
  std::ifstream file(std::string(kNetwork) + "model.json");
  std::ostringstream text;
  text << file.rdbuf();
  const Manifest manifest = *ParseManifest("model.json", text.str());
  Network network = *Network::Load(std::string(kNetwork) + "model.pt", "model.pt",
                                   manifest.input_shape, manifest.n_outputs);
  Dataset data = *ReadDataset(std::string(kFashion) + split + "-images-idx3-ubyte.gz",
                              std::string(kFashion) + split + "-labels-idx1-ubyte.gz");
  data.inputs = data.inputs.unsqueeze(1);
  return {std::move(network), manifest.likelihood, manifest, std::move(data)};
}

class FashionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    at::set_num_threads(2);
    if (!std::filesystem::exists(kFashion)) {
      GTEST_SKIP() << "needs Debian's package dataset-fashion-mnist";
    }
  }
};

TEST_F(FashionTest, TheDemoNetworkNamesNinetyOnePercentOfTheTestImages) {
  const EmpiricalRisk risk = LoadRisk("t10k");
  ASSERT_EQ(risk.size(), 10000);
  int64_t right = 0;
  for (int64_t begin = 0; begin < risk.size(); begin += 500) {
    const Dataset chunk = risk.data.Slice(begin, begin + 500);
    right += (risk.network.Forward(risk.NetworkInput(chunk.inputs)).argmax(1) == chunk.targets)
                 .sum()
                 .item<int64_t>();
  }
  EXPECT_GE(static_cast<double>(right) / 10000, 0.91);
}

TEST_F(FashionTest, CurvatureOnAnIndependentBatchIsUnbiasedAndOnTheSameBatchIsNot) {
  EmpiricalRisk risk = LoadRisk("train");
  risk.data = risk.data.Slice(0, 50000);
  const CapturePlan plan = FindCapturedParameters(risk.network);
  const auto batches = DisjointBatches(risk.size(), {64, 1500, 4000}, 1);
  LanczosOptions options;
  options.rank = 10;
  const auto pairs = Lanczos(GgnOperator(risk, batches[0]), options);
  ASSERT_TRUE(pairs.ok()) << pairs.status();
  const at::Tensor u = pairs->vectors.to(at::kFloat).contiguous();
  const auto debiased = MeasureCurvature(risk, plan, batches[1], u);
  const auto truth = MeasureCurvature(risk, plan, batches[2], u);
  ASSERT_TRUE(debiased.ok() && truth.ok());
  const at::Tensor error =
      (debiased->along.StandardError().square() + truth->along.StandardError().square()).sqrt();
  const at::Tensor z = (debiased->along.mean - truth->along.mean) / error;
  EXPECT_LT(z.abs().max().item<double>(), 4) << z;
  const at::Tensor trace_error =
      (debiased->total.StandardError().square() + truth->total.StandardError().square()).sqrt();
  EXPECT_LT(((debiased->total.mean - truth->total.mean).abs() / trace_error).item<double>(), 4);
  // The same directions on the batch that chose them: too large by factors, far outside the error.
  const at::Tensor ratio = pairs->values / truth->along.mean;
  EXPECT_GT(ratio.mean().item<double>(), 1.5) << ratio;
  EXPECT_GT(
      ((pairs->values - truth->along.mean) / truth->along.StandardError()).max().item<double>(), 5);
}

TEST_F(FashionTest, RitzValuesAreTooLargeOnTopTooSmallInTheTailAndBetterWithABiggerBatch) {
  EmpiricalRisk risk = LoadRisk("train");
  risk.data = risk.data.Slice(0, 50000);
  const CapturePlan plan = FindCapturedParameters(risk.network);
  const auto ratios = [&](int64_t batch_size, int64_t rank) {
    const auto batches = DisjointBatches(risk.size(), {batch_size, 3000}, 3);
    LanczosOptions options;
    options.rank = rank;
    const auto pairs = Lanczos(GgnOperator(risk, batches[0]), options);
    EXPECT_TRUE(pairs.ok()) << pairs.status();
    const auto truth =
        MeasureCurvature(risk, plan, batches[1], pairs->vectors.to(at::kFloat).contiguous());
    return (pairs->values / truth->along.mean).contiguous();
  };
  const at::Tensor small = ratios(32, 40);
  const double top = small.narrow(0, 0, 5).mean().item<double>();
  EXPECT_GT(top, 2) << small;
  EXPECT_LT(small.narrow(0, 35, 5).mean().item<double>(), 0.8) << small;
  const double top_of_large = ratios(512, 5).mean().item<double>();
  EXPECT_LT(top_of_large, 1 + 0.6 * (top - 1));
  EXPECT_GT(top_of_large, 1);
}

double Auroc(const at::Tensor& in, const at::Tensor& out) {
  // Mann-Whitney: share of pairs in the right order, ties count half.
  const at::Tensor difference = out.unsqueeze(1) - in.unsqueeze(0);
  return ((difference > 0).to(at::kDouble) + 0.5 * (difference == 0).to(at::kDouble))
      .mean()
      .item<double>();
}

TEST_F(FashionTest, ThePosteriorTellsDigitsFromClothesBetterThanTheNetworkAlone) {
  if (!std::filesystem::exists(kMnist)) GTEST_SKIP() << "needs the shared MNIST data: " << kMnist;
  EmpiricalRisk risk = LoadRisk("train");
  risk.data = risk.data.Slice(0, 50000);
  const CapturePlan plan = FindCapturedParameters(risk.network);
  FitOptions options;
  options.low_rank.rank = 20;
  options.low_rank.direction_batch_size = 256;
  options.low_rank.curvature_batch_size = 1500;
  options.low_rank.lanczos_tolerance = 0.02;
  ASSERT_TRUE(CheckFit(risk, plan, {}, options).ok());
  const auto fit = RunFit(risk, plan, {}, options, nullptr);
  ASSERT_TRUE(fit.ok()) << fit.status();
  EXPECT_DOUBLE_EQ(fit->posterior.prior_precision, 25);

  // Plain energy and the entropy of the probit predictive.
  const auto scores = [&](const Dataset& data) {
    std::vector<at::Tensor> energy, entropy;
    LinearizeRequest request;
    request.variance_at = {fit->posterior.precisions()};
    for (int64_t begin = 0; begin < 1000; begin += 50) {
      const at::Tensor x = risk.NetworkInput(data.inputs.narrow(0, begin, 50));
      const Linearized batch = *fit->posterior.structure->Linearize(risk.network, plan, x, request);
      energy.push_back(-at::logsumexp(batch.f, 1));
      entropy.push_back(Entropy(ProbitProbabilities(batch.f, batch.variance[0])));
    }
    return std::pair{at::cat(energy), at::cat(entropy)};
  };
  Dataset digits = *ReadDataset(std::string(kMnist) + "t10k-images-idx3-ubyte.gz",
                                std::string(kMnist) + "t10k-labels-idx1-ubyte.gz");
  digits.inputs = digits.inputs.unsqueeze(1);
  const auto clothes = scores(LoadRisk("t10k").data), odd = scores(digits);
  const double plain = Auroc(clothes.first, odd.first);
  const double with_posterior = Auroc(clothes.second, odd.second);
  // A quick fit; the served defaults (K = 50, larger batches) do better still.
  EXPECT_GE(with_posterior, 0.92);
  EXPECT_GT(with_posterior, plain + 0.02) << plain;
}

}  // namespace
}  // namespace laplaced
