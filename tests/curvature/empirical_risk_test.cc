#include "server/curvature/empirical_risk.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/reference/dense.h"
#include "tests/reference/networks.h"
#include "tests/reference/risks.h"

namespace laplaced {
namespace {

TEST(EmpiricalRiskTest, MeanLossIsAMeanWhateverTheChunks) {
  for (auto& c : reference::RiskCases()) {
    const double expected =
        c.risk.likelihood.Loss(c.risk.network.Forward(c.risk.data.inputs), c.risk.data.targets)
            .mean()
            .item<double>();
    for (int64_t chunk : {1, 5, 12, 256}) {
      c.risk.chunk_size = chunk;
      EXPECT_NEAR(c.risk.MeanLoss().value(), expected, 1e-13) << c.name;
    }
  }
}

TEST(EmpiricalRiskTest, LossesThatAreNotFiniteAreNamed) {
  auto risk = reference::RiskCases()[0].risk;
  risk.data.inputs = risk.data.inputs.clone();
  risk.data.inputs[7].fill_(NAN);
  risk.chunk_size = 5;
  const absl::Status status = risk.MeanLoss().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("training example 7"));
}

TEST(ProductChunkTest, BoundsTheLargestResultAndCutsEvenly) {
  const auto chunk = [](int64_t hidden, int64_t n, int64_t chunk_size = 256) {
    EmpiricalRisk risk = reference::MakeRisk(reference::TanhMlp(2, hidden, 2), {},
                                             at::zeros({1, 2}), at::zeros({1}, at::kLong));
    risk.chunk_size = chunk_size;
    return ProductChunk(risk, n);
  };
  EXPECT_EQ(chunk(8, 1000), 250);
  EXPECT_EQ(chunk(8, 1000, 100), 100);
  EXPECT_EQ(chunk(8, 7), 7);
  EXPECT_EQ(chunk(8, 300), 150);
  EXPECT_EQ(chunk(8192, 1000), 63);  // 64 kB each in fp64: at most 64
  EXPECT_EQ(chunk(1 << 20, 16), 4);  // 8 MB each
}

}  // namespace
}  // namespace laplaced
