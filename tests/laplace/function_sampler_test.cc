// Functions drawn from the posterior, and variances over them, against dense matrices and sampling
// laws.
#include "server/laplace/function_sampler.h"

#include <gtest/gtest.h>

#include <cmath>

#include "server/laplace/draw_moments.h"
#include "server/laplace/low_rank_structure.h"
#include "server/laplace/variance_mode.h"
#include "tests/reference/dense.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::RandomNormal;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

const auto kNoCheck = [] { return absl::OkStatus(); };

class FunctionSamplerTest : public ::testing::Test {
 protected:
  static LowRankCurvature Curvature() {
    LowRankCurvature c;
    c.directions = std::get<0>(at::linalg_qr(RandomNormal({31, 4}, 1)));
    c.curvature = at::tensor({2.0, 1.0, 0.5, 0.1}, at::kDouble);
    c.residual_kind = ResidualKind::kLayerwise;
    c.residual = at::tensor({0.01, 0.02, 0.005, 0.03}, at::kDouble);
    c.block_sizes = {12, 4, 12, 3};
    return c;
  }

  // [draws, b, C] for all blocks side by side.
  at::Tensor Draw(const std::vector<at::Tensor>& blocks, const FunctionDraws& draws) const {
    std::vector<std::vector<at::Tensor>> parts(static_cast<size_t>(draws.count));
    const absl::Status status = sampler_.ForEachDraw(
        structure_, at_, blocks, draws,
        [&](int64_t draw, size_t block, const at::Tensor& d) {
          auto& row = parts[static_cast<size_t>(draw)];
          EXPECT_EQ(row.size(), block);
          row.push_back(d);
        },
        kNoCheck);
    EXPECT_TRUE(status.ok()) << status;
    std::vector<at::Tensor> rows;
    for (const auto& row : parts) rows.push_back(at::cat(row));
    return at::stack(rows);
  }

  Network network_ = reference::TanhMlp(3, 4, 3);
  LowRankStructure structure_{Curvature()};
  FunctionSampler sampler_{network_};
  Precisions at_{40, 0.8};
  at::Tensor x_ = RandomNormal({6, 3}, 2);
  at::Tensor j_ = reference::Jacobians(network_, x_);
};

TEST_F(FunctionSamplerTest, ADrawIsTheJacobianTimesADeviationMadeFromSeedAndNumberAlone) {
  const at::Tensor draws = Draw({x_}, {7, 20, {}});
  for (const int64_t i : {0, 3, 15, 16, 19}) {  // across the draws that are made together
    const at::Tensor deviation =
        structure_.Deviations(at_, DrawNoise(7, i, 31, at::kDouble).unsqueeze(1));
    EXPECT_LT(Max(draws[i] - at::matmul(j_, deviation).squeeze(2)), 1e-12) << i;
  }
  // Fewer draws, other blocks: the same functions.
  const at::Tensor fewer = Draw({x_.narrow(0, 0, 4), x_.narrow(0, 4, 2)}, {7, 3, {}});
  EXPECT_LT(Max(fewer - draws.narrow(0, 0, 3)), 1e-14);
  EXPECT_TRUE(at::equal(Draw({x_}, {7, 20, {}}), draws));
  EXPECT_GT(Max(Draw({x_}, {8, 1, {}}) - draws.narrow(0, 0, 1)), 1e-3);
}

TEST_F(FunctionSamplerTest, NoiseIsNormalAndUnrelatedAcrossSeedsAndDraws) {
  constexpr int64_t kN = 20000;
  std::vector<at::Tensor> noise;
  for (const uint64_t seed : {0, 1, 2}) {
    for (const int64_t draw : {0, 1, 2}) noise.push_back(DrawNoise(seed, draw, kN, at::kDouble));
  }
  const at::Tensor z = at::stack(noise);
  const at::Tensor products = at::mm(z, z.t()) / kN;
  // Entries have variance 1 / n off the diagonal and 2 / n on it.
  EXPECT_LT(Max(products - at::eye(9, at::kDouble)), 5 * std::sqrt(2.0 / kN));
  EXPECT_LT(Max(z.mean(1)), 5 / std::sqrt(kN));
}

TEST_F(FunctionSamplerTest, MomentsOverDrawsComeNearTheExactVariance) {
  constexpr int64_t kDraws = 4000;
  const at::Tensor f = network_.Forward(x_);
  DrawMoments moments(f, Likelihood::Kind::kCategorical, true);
  ASSERT_TRUE(sampler_
                  .ForEachDraw(
                      structure_, at_, {x_}, {3, kDraws, {}},
                      [&](int64_t, size_t, const at::Tensor& d) { moments.Add(0, d); }, kNoCheck)
                  .ok());
  LinearizeRequest request;
  request.covariance_at = {at_};
  const auto exact = structure_.Linearize(network_, FindCapturedParameters(network_), x_, request);
  ASSERT_TRUE(exact.ok());
  const at::Tensor v = exact->covariance[0], variance = v.diagonal(0, 1, 2);
  const at::Tensor relative =
      (moments.Variance(kDraws) / variance - 1) / VarianceRelativeError(kDraws);
  EXPECT_LT(Max(relative), 4);  // 18 values, standard normal
  EXPECT_GT(relative.square().mean().item<double>(), 0.1) << "the error is not what is reported";
  const at::Tensor scale =
      ((variance.unsqueeze(2) * variance.unsqueeze(1) + v.square()) / kDraws).sqrt();
  EXPECT_LT(Max((moments.Covariance(kDraws) - v) / scale), 4.5);
  EXPECT_LT(Max(moments.RowSums(kDraws) - moments.Covariance(kDraws).sum(2)), 1e-12);
  const SampledPredictive drawn = moments.Categorical(kDraws), sampled = SamplePredictive(f, v);
  EXPECT_LT(Max(drawn.mean - sampled.mean), 4 * 0.5 / std::sqrt(kMcSamples));
  EXPECT_LT(Max(drawn.aleatoric + drawn.epistemic - Entropy(drawn.mean)), 1e-12);
  EXPECT_LT(Max(drawn.epistemic - sampled.epistemic), 0.05);
}

TEST_F(FunctionSamplerTest, MomentsAreAveragesOverDraws) {
  const at::Tensor f = RandomNormal({2, 3}, 1), d = RandomNormal({5, 2, 3}, 2);
  for (const auto kind : {Likelihood::Kind::kCategorical, Likelihood::Kind::kBernoulli}) {
    DrawMoments moments(f, kind, false);
    for (int64_t i = 0; i < 5; ++i) {
      moments.Add(0, d[i].narrow(0, 0, 1));
      moments.Add(1, d[i].narrow(0, 1, 1));
    }
    EXPECT_LT(Max(moments.Variance(5) - d.square().mean(0)), 1e-15);
    EXPECT_LT(Max(moments.RowSums(5) - (d * d.sum(2, true)).mean(0)), 1e-15);
    if (kind == Likelihood::Kind::kCategorical) {
      const at::Tensor p = at::softmax(f + d, 2);
      EXPECT_LT(Max(moments.Categorical(5).mean - p.mean(0)), 1e-15);
      EXPECT_LT(Max(moments.Categorical(5).aleatoric - Entropy(p).mean(0)), 1e-15);
    } else {
      const at::Tensor p = at::sigmoid(f + d);
      EXPECT_LT(Max(moments.Bernoulli(5).mean - p.mean(0)), 1e-15);
      EXPECT_LT(Max(moments.Bernoulli(5).epistemic -
                    (BinaryEntropy(p.mean(0)) - BinaryEntropy(p).mean(0))),
                1e-14);
    }
  }
}

TEST_F(FunctionSamplerTest, HeldParametersDoNotMove) {
  const at::Tensor draws = Draw({x_}, {7, 2, {false, false, true, true}});
  at::Tensor held = j_.clone();
  held.narrow(2, 0, 16).zero_();
  const at::Tensor deviation =
      structure_.Deviations(at_, DrawNoise(7, 1, 31, at::kDouble).unsqueeze(1));
  EXPECT_LT(Max(draws[1] - at::matmul(held, deviation).squeeze(2)), 1e-12);
}

TEST_F(FunctionSamplerTest, StopsWhenAskedTo) {
  int passes = 0;
  const absl::Status status = sampler_.ForEachDraw(
      structure_, at_, {x_, x_}, {0, 50, {}}, [&](int64_t, size_t, const at::Tensor&) { ++passes; },
      [&] { return passes < 5 ? absl::OkStatus() : absl::CancelledError("enough"); });
  EXPECT_EQ(status, absl::CancelledError("enough"));
  EXPECT_EQ(passes, 5);
}

}  // namespace
}  // namespace laplaced
