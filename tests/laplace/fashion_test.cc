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
      (debiased->standard_errors.square() + truth->standard_errors.square()).sqrt();
  const at::Tensor z = (debiased->values - truth->values) / error;
  EXPECT_LT(z.abs().max().item<double>(), 4) << z;
  EXPECT_LT(std::abs(debiased->trace - truth->trace),
            4 * std::hypot(debiased->trace_standard_error, truth->trace_standard_error));
  // The same directions on the batch that chose them: too large by factors, far outside the error.
  const at::Tensor ratio = pairs->values / truth->values;
  EXPECT_GT(ratio.mean().item<double>(), 1.5) << ratio;
  EXPECT_GT(((pairs->values - truth->values) / truth->standard_errors).max().item<double>(), 5);
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
  options.rank = 20;
  options.direction_batch_size = 256;
  options.curvature_batch_size = 1500;
  options.lanczos_tolerance = 0.02;
  ASSERT_TRUE(CheckFit(risk, {}, options).ok());
  const auto fit = RunFit(risk, plan, {}, options, nullptr);
  ASSERT_TRUE(fit.ok()) << fit.status();
  EXPECT_DOUBLE_EQ(fit->posterior.prior_precision, 25);

  const auto linearise = [&](const Dataset& data) {
    return *Linearize(risk, plan, data.Slice(0, 1000), fit->posterior.directions);
  };
  Dataset digits = *ReadDataset(std::string(kMnist) + "t10k-images-idx3-ubyte.gz",
                                std::string(kMnist) + "t10k-labels-idx1-ubyte.gz");
  digits.inputs = digits.inputs.unsqueeze(1);
  const LinearizedData clothes = linearise(LoadRisk("t10k").data), odd = linearise(digits);
  const auto laplace_entropy = [&](const LinearizedData& data) {
    return Entropy(ProbitProbabilities(
        data.f, fit->posterior.FunctionalVariance(data.t.to(at::kDouble), data.g)));
  };
  const auto energy = [](const LinearizedData& data) { return -at::logsumexp(data.f, 1); };
  const double with_posterior = Auroc(laplace_entropy(clothes), laplace_entropy(odd));
  const double plain = Auroc(energy(clothes), energy(odd));
  // A quick fit; the served defaults (K = 50, larger batches) do better still.
  EXPECT_GE(with_posterior, 0.92);
  EXPECT_GT(with_posterior, plain + 0.02) << plain;
}

}  // namespace
}  // namespace laplaced
