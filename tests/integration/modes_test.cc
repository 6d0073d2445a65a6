// Ways to the variance, links, what-if, joint covariance and function samples through the real
// server and the real client.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "client/cpp/errors.h"
#include "server/laplace/predictive.h"
#include "tests/integration/world.h"
#include "tests/support/status_matchers.h"

namespace laplaced::integration {
namespace {

namespace client = laplace::client;
using client::VarianceMode;
using test_support::IsOk;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kC = 3;

at::Tensor AsTensor(const std::vector<float>& values, at::IntArrayRef shape) {
  return at::tensor(values, at::kFloat).to(at::kDouble).view(shape);
}

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

class ModesTest : public ::testing::Test {
 protected:
  using Change = std::function<void(client::PredictRequest&)>;

  ModesTest() {
    world_.Start();
    client_ = world_.Connect();
  }

  void Fit(client::Structure structure = client::Structure::kLowRank) {
    auto request = world_.FitRequest(*client_);
    if (structure != client::Structure::kLowRank) {
      request.options = {};
      request.options.structure = structure;
      if (structure == client::Structure::kKfac) {
        request.options.direction_batch_size = 100;
        request.options.curvature_batch_size = 150;
      }
    }
    ASSERT_THAT(client_->Fit(request), IsOk());
  }

  client::PredictRequest Request() const {
    client::PredictRequest request;
    request.model = "mlp";
    request.inputs = world_.test_inputs();
    return request;
  }

  client::Prediction Predict(const Change& change) const {
    client::PredictRequest request = Request();
    change(request);
    auto prediction = client_->Predict(request);
    EXPECT_THAT(prediction, IsOk());
    return prediction.ok() ? *std::move(prediction) : client::Prediction{};
  }

  void ExpectRefused(const Change& change, const std::string& field,
                     const std::string& part) const {
    client::PredictRequest request = Request();
    change(request);
    const auto prediction = client_->Predict(request);
    EXPECT_EQ(prediction.status().code(), absl::StatusCode::kInvalidArgument) << field;
    const auto violations = client::FieldViolations(prediction.status());
    ASSERT_EQ(violations.size(), 1u) << prediction.status();
    EXPECT_EQ(violations[0].field, field) << prediction.status();
    EXPECT_THAT(std::string(prediction.status().message()), HasSubstr(part));
  }

  World world_;
  std::unique_ptr<client::Client> client_;
};

TEST_F(ModesTest, AutoIsExactForAnOrdinaryModelAndSaysSo) {
  Fit();
  const auto usual = Predict([](auto&) {});
  const auto exact = Predict([](auto& r) { r.variance_mode = VarianceMode::kExact; });
  EXPECT_EQ(usual.variance_mode, VarianceMode::kExact);
  EXPECT_EQ(usual.mean, exact.mean);
  EXPECT_EQ(usual.functional_variance, exact.functional_variance);
  EXPECT_GT(usual.estimated_flops, 0);
  EXPECT_EQ(usual.variance_relative_error, 0);
  EXPECT_EQ(usual.temperature, 1);
  EXPECT_TRUE(usual.ood_scores[0].threshold.has_value());
}

TEST_F(ModesTest, SampledVariancesComeWithinTheErrorThatIsReported) {
  for (const auto structure :
       {client::Structure::kLowRank, client::Structure::kKfac, client::Structure::kLastLayer}) {
    Fit(structure);
    const auto exact = Predict([](auto& r) {
      r.ood_scores = {"variance", "laplace_entropy", "mutual_information", "msp"};
      r.return_covariance = true;
    });
    const auto sampled = Predict([](auto& r) {
      r.ood_scores = {"variance", "laplace_entropy", "mutual_information", "msp"};
      r.return_covariance = true;
      r.variance_mode = VarianceMode::kSampled;
      r.samples = 2000;
      r.seed = 5;
    });
    EXPECT_EQ(sampled.variance_mode, VarianceMode::kSampled);
    EXPECT_EQ(sampled.samples, 2000);
    EXPECT_DOUBLE_EQ(sampled.variance_relative_error, std::sqrt(2.0 / 2000));
    for (size_t i = 0; i < exact.functional_variance.size(); ++i) {
      EXPECT_NEAR(sampled.functional_variance[i] / exact.functional_variance[i], 1,
                  5 * sampled.variance_relative_error);
      EXPECT_NEAR(sampled.mean[i], exact.mean[i], 0.02);
    }
    const at::Tensor v = AsTensor(exact.functional_covariance, {40, kC, kC});
    EXPECT_LT(Max(AsTensor(sampled.functional_covariance, {40, kC, kC}) - v),
              5 * sampled.variance_relative_error * Max(v));
    EXPECT_EQ(sampled.map_mean, exact.map_mean);
    EXPECT_FALSE(sampled.ood_scores[0].threshold.has_value());
    EXPECT_FALSE(sampled.ood_scores[1].threshold.has_value());
    EXPECT_TRUE(sampled.ood_scores[3].threshold.has_value()) << "msp needs logits only";
    EXPECT_EQ(sampled.ood_scores[3].values, exact.ood_scores[3].values);
    for (size_t n = 0; n < 40; ++n) {
      EXPECT_NEAR(sampled.ood_scores[0].values[n] / exact.ood_scores[0].values[n], 1, 0.2);
      EXPECT_NEAR(sampled.ood_scores[1].values[n], exact.ood_scores[1].values[n], 0.03);
      EXPECT_NEAR(sampled.ood_scores[2].values[n], exact.ood_scores[2].values[n], 0.08);
      EXPECT_NEAR(sampled.epistemic[n], exact.epistemic[n], 0.08);
    }
    // Score draws the same functions.
    client::ScoreRequest score;
    score.model = "mlp";
    score.inputs = world_.test_inputs();
    score.ood_scores = {"variance", "msp"};
    score.variance_mode = VarianceMode::kSampled;
    score.samples = 2000;
    score.seed = 5;
    const auto scores = client_->Score(score);
    ASSERT_THAT(scores, IsOk());
    EXPECT_EQ(scores->variance_mode, VarianceMode::kSampled);
    EXPECT_EQ(scores->ood_scores[0].values, sampled.ood_scores[0].values);
    EXPECT_FALSE(scores->ood_scores[0].threshold.has_value());
  }
}

TEST_F(ModesTest, TopClassesAreExactForWhatTheyKeepAndBoundTheRest) {
  Fit();
  const auto exact = Predict([](auto& r) { r.return_covariance = true; });
  const auto top = Predict([](auto& r) {
    r.variance_mode = VarianceMode::kTopClasses;
    r.top_classes = 2;
    r.return_covariance = true;
    r.ood_scores = {"energy"};
  });
  EXPECT_EQ(top.top_classes, 2);
  EXPECT_EQ(top.variance_width, 2);
  const at::Tensor outputs = at::tensor(top.variance_outputs, at::kLong).view({40, 2});
  const at::Tensor f = AsTensor(exact.functional_mean, {40, kC});
  EXPECT_TRUE(at::equal(outputs, std::get<1>(f.topk(2, 1))));
  const at::Tensor v = AsTensor(exact.functional_covariance, {40, kC, kC});
  const at::Tensor kept = v.gather(1, outputs.unsqueeze(2).expand({40, 2, kC}))
                              .gather(2, outputs.unsqueeze(1).expand({40, 2, 2}));
  EXPECT_LT(Max(AsTensor(top.functional_covariance, {40, 2, 2}) - kept), 1e-5 * Max(v));
  const at::Tensor error =
      (AsTensor(top.mean, {40, kC}) - AsTensor(exact.mean, {40, kC})).abs().amax(1);
  EXPECT_LE((error - AsTensor(top.left_out_bound, {40})).max().item<double>(), 1e-6);
  EXPECT_GT(error.max().item<double>(), 0);
  EXPECT_TRUE(top.ood_scores[0].threshold.has_value());

  // All of them: nothing is left out. Without a score named, none is computed that cannot be.
  const auto all = Predict([](auto& r) {
    r.variance_mode = VarianceMode::kTopClasses;
    r.top_classes = 50;
  });
  EXPECT_EQ(all.variance_width, kC);
  EXPECT_LT(Max(AsTensor(all.mean, {40, kC}) - AsTensor(exact.mean, {40, kC})), 1e-6);
  EXPECT_EQ(Max(AsTensor(all.left_out_bound, {40})), 0);
  EXPECT_TRUE(all.ood_scores.empty());
}

TEST_F(ModesTest, LastLayerIsExactForAPosteriorOverTheLastLayerAndLessOtherwise) {
  const auto last = [](auto& r) { r.variance_mode = VarianceMode::kLastLayer; };
  Fit(client::Structure::kLastLayer);
  const auto dense = Predict([](auto&) {}), same = Predict(last);
  EXPECT_EQ(same.variance_mode, VarianceMode::kLastLayer);
  EXPECT_LT(Max(AsTensor(same.functional_variance, {40, kC}) /
                    AsTensor(dense.functional_variance, {40, kC}) -
                1),
            1e-5);
  EXPECT_FALSE(same.ood_scores[0].threshold.has_value());
  for (const auto structure : {client::Structure::kLowRank, client::Structure::kKfac}) {
    Fit(structure);
    const auto exact = Predict([](auto&) {}), held = Predict(last);
    const at::Tensor share = AsTensor(held.functional_variance, {40, kC}).sum(1) /
                             AsTensor(exact.functional_variance, {40, kC}).sum(1);
    EXPECT_GT(share.min().item<double>(), 0);
    EXPECT_LT(share.mean().item<double>(), 1);
  }
}

TEST_F(ModesTest, TemperatureAndPriorGoIntoThePrecisionTogether) {
  // N / (4 T) H + delta / 4 K is a quarter of the precision: four times the variance.
  Fit();
  const auto before = Predict([](auto&) {});
  const auto wide = Predict([&](auto& r) {
    r.temperature = 4 * before.temperature;
    r.prior_precision = before.prior_precision / 4;
  });
  EXPECT_EQ(wide.temperature, 4 * before.temperature);
  EXPECT_EQ(wide.prior_precision, before.prior_precision / 4);
  EXPECT_LT(Max(AsTensor(wide.functional_variance, {40, kC}) /
                    (4 * AsTensor(before.functional_variance, {40, kC})) -
                1),
            1e-5);
  EXPECT_EQ(wide.ood_scores[0].values, before.ood_scores[0].values) << "scores keep their own";
  const auto after = Predict([](auto&) {});
  EXPECT_EQ(after.functional_variance, before.functional_variance);
}

TEST_F(ModesTest, EveryLinkIsTheOneOfTheCore) {
  Fit();
  const auto predict = [&](client::LinkApprox link) {
    return Predict([link](auto& r) {
      r.link_approx = link;
      r.return_covariance = true;
    });
  };
  const auto probit = predict(client::LinkApprox::kProbit);
  const at::Tensor f = AsTensor(probit.functional_mean, {40, kC});
  const at::Tensor v = AsTensor(probit.functional_covariance, {40, kC, kC});
  const at::Tensor variance = v.diagonal(0, 1, 2);
  const std::pair<client::LinkApprox, at::Tensor> links[] = {
      {client::LinkApprox::kProbit, ProbitProbabilities(f, variance)},
      {client::LinkApprox::kMonteCarlo, SamplePredictive(f, v).mean},
      {client::LinkApprox::kLaplaceBridge, LaplaceBridgeProbabilities(f, variance, v.sum(2))},
      {client::LinkApprox::kMeanField, MeanFieldProbabilities(f, v)}};
  for (const auto& [link, expected] : links) {
    EXPECT_LT(Max(AsTensor(predict(link).mean, {40, kC}) - expected), 1e-4)
        << static_cast<int>(link);
    // From draws: the bridge without a covariance, mean field with one.
    const auto sampled = Predict([link = link](auto& r) {
      r.link_approx = link;
      r.variance_mode = VarianceMode::kSampled;
      r.samples = 3000;
    });
    EXPECT_LT(Max(AsTensor(sampled.mean, {40, kC}) - expected), 0.1) << static_cast<int>(link);
  }
}

TEST_F(ModesTest, JointCovarianceHoldsEveryExamplesOwn) {
  for (const auto structure :
       {client::Structure::kLowRank, client::Structure::kKfac, client::Structure::kLastLayer}) {
    Fit(structure);
    for (const VarianceMode mode : {VarianceMode::kDefault, VarianceMode::kLastLayer}) {
      const auto prediction = Predict([mode](auto& r) {
        r.return_covariance = r.return_joint_covariance = true;
        r.variance_mode = mode;
      });
      const at::Tensor joint = AsTensor(prediction.joint_covariance, {40, kC, 40, kC});
      const at::Tensor v = AsTensor(prediction.functional_covariance, {40, kC, kC});
      for (int64_t n = 0; n < 40; ++n) {
        EXPECT_LT(Max(joint[n].select(1, n) - v[n]), 1e-4 * Max(v));
      }
      const at::Tensor flat = joint.view({40 * kC, 40 * kC});
      EXPECT_LT(Max(flat - flat.t()), 1e-6 * Max(v));
      EXPECT_GT(at::linalg_eigvalsh(flat, "L").min().item<double>(), -1e-4 * Max(v));
    }
  }
}

TEST_F(ModesTest, FunctionSamplesAreOneFunctionWhateverIsAskedOfThem) {
  Fit();
  const auto many = Predict([](auto& r) {
    r.return_samples = 500;
    r.seed = 9;
  });
  const at::Tensor samples = AsTensor(many.function_samples, {500, 40, kC});
  const at::Tensor f = AsTensor(many.functional_mean, {40, kC});
  const at::Tensor v = AsTensor(many.functional_variance, {40, kC});
  EXPECT_LT(Max(((samples - f).square().mean(0) / v - 1) / std::sqrt(2.0 / 500)), 5);
  // Fewer functions at a few examples, in another mode.
  const auto few = Predict([&](auto& r) {
    r.inputs = ToArray(ToTensor(world_.test_inputs()).narrow(0, 7, 5));
    r.return_samples = 3;
    r.seed = 9;
    r.variance_mode = VarianceMode::kTopClasses;
    r.top_classes = 1;
  });
  EXPECT_LT(
      Max(AsTensor(few.function_samples, {3, 5, kC}) - samples.narrow(0, 0, 3).narrow(1, 7, 5)),
      1e-4);
  // The draws of SAMPLED are these functions: its mean by MC is their average.
  const auto sampled = Predict([](auto& r) {
    r.variance_mode = VarianceMode::kSampled;
    r.samples = 500;
    r.seed = 9;
    r.link_approx = client::LinkApprox::kMonteCarlo;
  });
  EXPECT_LT(Max(AsTensor(sampled.mean, {40, kC}) - at::softmax(samples, 2).mean(0)), 1e-5);
  EXPECT_LT(Max(AsTensor(sampled.functional_variance, {40, kC}) - (samples - f).square().mean(0)),
            1e-3 * Max(v));
  // Samples of the last layer move less.
  const auto last = Predict([](auto& r) {
    r.return_samples = 500;
    r.seed = 9;
    r.variance_mode = VarianceMode::kLastLayer;
  });
  const at::Tensor v_last = AsTensor(last.functional_variance, {40, kC});
  EXPECT_LT(
      Max(((AsTensor(last.function_samples, {500, 40, kC}) - f).square().mean(0) / v_last - 1) /
          std::sqrt(2.0 / 500)),
      5);
}

TEST_F(ModesTest, WhatGoesTogetherBadlyIsRefusedByField) {
  Fit();
  const auto mode = [](VarianceMode m) { return [m](auto& r) { r.variance_mode = m; }; };
  const auto with = [](const Change& a, const Change& b) {
    return [a, b](client::PredictRequest& r) {
      a(r);
      b(r);
    };
  };
  const Change top = mode(VarianceMode::kTopClasses), sampled = mode(VarianceMode::kSampled);
  ExpectRefused([](auto& r) { r.temperature = -1; }, "temperature", "above 0");
  ExpectRefused([](auto& r) { r.temperature = 1e300; }, "temperature", "expected a number from");
  ExpectRefused([](auto& r) { r.samples = 5; }, "samples", "VARIANCE_MODE_SAMPLED");
  ExpectRefused(with(sampled, [](auto& r) { r.samples = -5; }), "samples", "-5");
  ExpectRefused(with(sampled, [](auto& r) { r.samples = 10001; }), "samples", "at most 10000");
  ExpectRefused([](auto& r) { r.top_classes = 5; }, "top_classes", "VARIANCE_MODE_TOP_CLASSES");
  ExpectRefused([](auto& r) { r.return_samples = -1; }, "return_samples", "-1");
  ExpectRefused(with(mode(VarianceMode::kExact), [](auto& r) { r.seed = 1; }), "seed",
                "means nothing");
  ExpectRefused(with(top, [](auto& r) { r.link_approx = client::LinkApprox::kMonteCarlo; }),
                "link_approx", "PROBIT");
  ExpectRefused(with(top, [](auto& r) { r.return_joint_covariance = true; }),
                "return_joint_covariance", "EXACT or LAST_LAYER");
  ExpectRefused(with(sampled, [](auto& r) { r.return_joint_covariance = true; }),
                "return_joint_covariance", "got SAMPLED");
  ExpectRefused(with(top,
                     [](auto& r) {
                       r.ood_scores = {"msp", "variance"};
                     }),
                "ood_scores[1]", "TOP_CLASSES");
  ExpectRefused(with(sampled, [](auto& r) { r.ood_scores = {"local_ensemble"}; }), "ood_scores[0]",
                "local_ensemble cannot");
}

}  // namespace
}  // namespace laplaced::integration
