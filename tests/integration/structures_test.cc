// Every structure, strategy and likelihood through the real server and the real client: fit, store,
// load, predict, update.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/integration/world.h"
#include "tests/reference/networks.h"
#include "tests/support/status_matchers.h"

namespace laplaced::integration {
namespace {

namespace client = laplace::client;
using test_support::IsOk;
using test_support::StatusIs;
using ::testing::HasSubstr;

class StructuresTest : public ::testing::Test {
 protected:
  client::PredictRequest Request(const std::string& model = "mlp") const {
    client::PredictRequest request;
    request.model = model;
    request.inputs = world_.test_inputs();
    request.return_covariance = true;
    return request;
  }

  World world_;
};

TEST_F(StructuresTest, EveryPosteriorIsStoredAndPredictsTheSameAfterARestart) {
  using Change = std::function<void(client::FitOptions&)>;
  const std::pair<const char*, Change> cases[] = {
      {"none",
       [](auto& o) {
         o.debiasing = client::Debiasing::kNone;
         o.curvature_batch_size = 0;
       }},
      {"cross_fit", [](auto& o) { o.debiasing = client::Debiasing::kCrossFit; }},
      {"full_pass",
       [](auto& o) {
         o.debiasing = client::Debiasing::kFullPass;
         o.curvature_batch_size = 0;
       }},
      {"no residual", [](auto& o) { o.residual = client::Residual::kNone; }},
      {"isotropic", [](auto& o) { o.residual = client::Residual::kIsotropic; }},
      {"diagonal", [](auto& o) { o.residual = client::Residual::kDiagonal; }},
      {"variance correction", [](auto& o) { o.variance_correction = true; }},
      {"temperature", [](auto& o) { o.temperature = 0.5; }},
      {"MC-Fisher", [](auto& o) { o.curvature = client::Curvature::kMcFisher; }},
      {"empirical Fisher", [](auto& o) { o.curvature = client::Curvature::kEmpiricalFisher; }},
      {"Hessian", [](auto& o) { o.curvature = client::Curvature::kHessian; }},
      {"evidence", [](auto& o) { o.prior_method = client::PriorMethod::kEvidence; }},
      {"subset", [](auto& o) { o.parameters = {"w*"}; }},
      {"kfac",
       [](auto& o) {
         o = {};
         o.structure = client::Structure::kKfac;
         o.direction_batch_size = 100;
         o.curvature_batch_size = 150;
       }},
      {"kfac by factors",
       [](auto& o) {
         o = {};
         o.structure = client::Structure::kKfac;
         o.direction_batch_size = 100;
         o.curvature_batch_size = 150;
         o.kfac_eigenvalues = client::KfacEigenvalues::kFactors;
       }},
      {"last layer",
       [](auto& o) {
         o = {};
         o.structure = client::Structure::kLastLayer;
       }},
  };
  world_.Start();
  std::vector<std::pair<std::string, client::Prediction>> before;
  {
    const auto connection = world_.Connect();
    for (const auto& [name, change] : cases) {
      auto request = world_.FitRequest(*connection);
      change(request.options);
      const auto id = connection->Fit(request);
      ASSERT_THAT(id, IsOk()) << name;
      const auto prediction = connection->Predict(Request());
      ASSERT_THAT(prediction, IsOk()) << name;
      EXPECT_EQ(prediction->posterior_id, *id);
      for (const float v : prediction->functional_variance) EXPECT_GT(v, 0) << name;
      const auto posterior = connection->GetPosterior("mlp", 0, *id);
      ASSERT_THAT(posterior, IsOk()) << name;
      EXPECT_GT(posterior->effective_parameters, 0) << name;
      EXPECT_GE(posterior->prior_candidates.size(), 57u) << name;
      EXPECT_FALSE(posterior->ood_thresholds.empty()) << name;
      EXPECT_GT(posterior->cost.peak_memory_bytes, -1) << name;
      before.emplace_back(*id, *prediction);
    }
    // Different posteriors, different answers.
    for (size_t i = 1; i < before.size(); ++i) {
      EXPECT_NE(before[i].second.functional_variance, before[i - 1].second.functional_variance)
          << cases[i].first;
    }
  }
  world_.Start();
  const auto connection = world_.Connect();
  ASSERT_THAT(connection->LoadModel("mlp"), IsOk());
  for (size_t i = 0; i < before.size(); ++i) {
    ASSERT_THAT(connection->ActivatePosterior("mlp", 0, before[i].first), IsOk()) << cases[i].first;
    const auto after = connection->Predict(Request());
    ASSERT_THAT(after, IsOk());
    EXPECT_EQ(after->mean, before[i].second.mean) << cases[i].first;
    EXPECT_EQ(after->functional_covariance, before[i].second.functional_covariance)
        << cases[i].first;
    EXPECT_EQ(after->ood_scores[0].values, before[i].second.ood_scores[0].values);
  }
}

TEST_F(StructuresTest, TheLastLayerIsTheFullRankPosteriorOfItsParameters) {
  // Two ways to the same matrix: Lanczos to the end on all data, and the closed form.
  world_.Start();
  const auto connection = world_.Connect();
  const auto model = connection->GetModel("mlp");
  ASSERT_THAT(model, IsOk());
  EXPECT_EQ(model->last_layer_parameters, (std::vector<std::string>{"w2", "b2"}));
  auto request = world_.FitRequest(*connection);
  request.options = {};
  request.options.prior_precision = 3;
  request.options.structure = client::Structure::kLastLayer;
  ASSERT_THAT(connection->Fit(request), IsOk());
  const auto dense = connection->Predict(Request());
  request.options.structure = client::Structure::kLowRank;
  request.options.parameters = {"w2", "b2"};
  request.options.rank = 21;
  request.options.direction_batch_size = 300;
  request.options.debiasing = client::Debiasing::kNone;
  request.options.residual = client::Residual::kNone;
  request.options.lanczos_tolerance = 1e-6;
  ASSERT_THAT(connection->Fit(request), IsOk());
  const auto lanczos = connection->Predict(Request());
  ASSERT_THAT(dense, IsOk());
  ASSERT_THAT(lanczos, IsOk());
  for (size_t i = 0; i < dense->functional_covariance.size(); ++i) {
    EXPECT_NEAR(dense->functional_covariance[i], lanczos->functional_covariance[i], 2e-4);
  }
}

TEST_F(StructuresTest, AnUpdateMakesANewPosteriorAndLeavesTheOldOne) {
  world_.Start();
  const auto connection = world_.Connect();
  const std::string id = world_.Fit(*connection);
  const auto old = connection->GetPosterior("mlp");
  const auto before = connection->Predict(Request());
  ASSERT_THAT(before, IsOk());
  const auto more = connection->EnsureDataset(world_.test_inputs(),
                                              Array{DType::kInt64, {40}, std::string(320, '\0')});
  ASSERT_THAT(more, IsOk());
  client::UpdateRequest request;
  request.model = "mlp";
  request.dataset_id = more->id;
  const auto updated = connection->Update(request);
  ASSERT_THAT(updated, IsOk());
  const auto posterior = connection->GetPosterior("mlp");
  ASSERT_THAT(posterior, IsOk());
  EXPECT_EQ(posterior->id, *updated);
  EXPECT_EQ(posterior->parent_posterior_id, id);
  EXPECT_EQ(posterior->updated_examples, 40);
  EXPECT_EQ(posterior->n_data, old->n_data + 40);
  EXPECT_EQ(posterior->curvature_count, old->curvature_count + 40);
  EXPECT_EQ(posterior->biased_eigenvalues, old->biased_eigenvalues);
  EXPECT_NE(posterior->eigenvalues, old->eigenvalues);
  EXPECT_EQ(posterior->ood_thresholds.size(), old->ood_thresholds.size());
  EXPECT_THAT(connection->Update(request), StatusIs(absl::StatusCode::kInvalidArgument,
                                                    HasSubstr("has these examples already")));
  // The old one still answers as it did.
  ASSERT_THAT(connection->ActivatePosterior("mlp", 0, id), IsOk());
  EXPECT_EQ(connection->Predict(Request())->mean, before->mean);

  request.posterior_id = id;
  request.dataset_id = old->train_dataset_id;
  EXPECT_THAT(connection->Update(request), StatusIs(absl::StatusCode::kInvalidArgument,
                                                    HasSubstr("has these examples already")));
  auto biased = world_.FitRequest(*connection);
  biased.options.debiasing = client::Debiasing::kNone;
  biased.options.curvature_batch_size = 0;
  ASSERT_THAT(connection->Fit(biased), IsOk());
  request.posterior_id = "";
  request.dataset_id = more->id;
  EXPECT_THAT(connection->Update(request), StatusIs(absl::StatusCode::kFailedPrecondition,
                                                    HasSubstr("fitted without debiasing")));
}

TEST_F(StructuresTest, ScoresOfDirectionsAreRefusedWithoutDirections) {
  world_.Start();
  const auto connection = world_.Connect();
  auto fit = world_.FitRequest(*connection);
  fit.options = {};
  fit.options.direction_batch_size = 100;
  fit.options.curvature_batch_size = 150;
  fit.options.structure = client::Structure::kKfac;
  ASSERT_THAT(connection->Fit(fit), IsOk());
  auto request = Request();
  request.ood_scores = {"local_ensemble"};
  EXPECT_THAT(connection->Predict(request),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("expected one of")));
}

TEST_F(StructuresTest, WhatTheModelCannotDoIsRefusedBeforeWorkStarts) {
  world_.Start();
  const auto connection = world_.Connect();
  const auto expect = [&](const std::function<void(client::FitOptions&)>& change,
                          const std::string& message) {
    auto request = world_.FitRequest(*connection);
    change(request.options);
    EXPECT_THAT(connection->StartFit(request),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message)));
  };
  expect([](auto& o) { o.parameters = {"head.*"}; }, "options.parameters[0]");
  expect(
      [](auto& o) {
        o.parameters = {"w1"};
        o.rank = 30;
      },
      "expected 1 to 24");
  expect([](auto& o) { o.sigma_noise = 1.0; }, "options.sigma_noise");
  expect([](auto& o) { o.memory_limit_bytes = 100; }, "options.memory_limit_bytes");
  expect(
      [](auto& o) {
        o.direction_batch_size = 299;
        o.curvature_batch_size = 0;
        o.debiasing = client::Debiasing::kFullPass;
      },
      "options.direction_batch_size");
}

// Models of the other likelihoods, in the same registry.
class LikelihoodsTest : public StructuresTest {
 protected:
  void AddModel(const std::string& name, const std::string& likelihood) {
    const std::string folder = world_.root() + "/models/" + name + "/1";
    std::filesystem::create_directories(folder);
    test_support::WriteFileBytes(
        folder + "/model.json",
        "{\"likelihood\": " + likelihood +
            ", \"input\": {\"shape\": [4]}, \"n_outputs\": 3, \"weight_decay\": 0.01}");
    reference::MakeModule({{"w1", {6, 4}}, {"b1", {6}}, {"w2", {3, 6}}, {"b2", {3}}},
                          "  h = torch.tanh(torch.linear(x, self.w1, self.b1))\n"
                          "  return torch.linear(h, self.w2, self.b2)\n",
                          at::kFloat, 5, 1.0)
        .save(folder + "/model.pt");
  }

  client::FitRequest FitRequest(const client::Client& connection, const std::string& model,
                                const at::Tensor& targets) {
    auto request = world_.FitRequest(connection);
    const auto data = connection.EnsureDataset(world_.train_inputs(), ToArray(targets));
    EXPECT_THAT(data, IsOk());
    request.model = model;
    request.train_dataset_id = data->id;
    request.validation_dataset_id = "";
    return request;
  }
};

TEST_F(LikelihoodsTest, MultiLabelModelsSayProbabilitiesAndEntropyOfEveryLabel) {
  AddModel("labels", "\"bernoulli\"");
  world_.Start();
  const auto connection = world_.Connect();
  ASSERT_THAT(connection->LoadModel("labels"), IsOk());
  const at::Tensor targets = (reference::RandomNormal({300, 3}, 4) > 0).to(at::kFloat);
  ASSERT_THAT(connection->Fit(FitRequest(*connection, "labels", targets)), IsOk());
  auto request = Request("labels");
  request.ood_scores = {"energy", "laplace_entropy", "mutual_information"};
  const auto prediction = connection->Predict(request);
  ASSERT_THAT(prediction, IsOk());
  ASSERT_EQ(prediction->epistemic.size(), 120u);
  for (size_t i = 0; i < 120; ++i) {
    const double p = prediction->mean[i], plain = prediction->map_mean[i];
    EXPECT_TRUE(p > 0 && p < 1);
    EXPECT_LE(std::abs(p - 0.5), std::abs(plain - 0.5) + 1e-6);  // moderated
    EXPECT_GE(prediction->epistemic[i], 0);
    EXPECT_LE(prediction->epistemic[i] + prediction->aleatoric[i], std::log(2.0) + 1e-6);
  }
  const auto bad = FitRequest(*connection, "labels", targets * 2);
  EXPECT_THAT(connection->StartFit(bad),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("train_dataset_id")));
}

TEST_F(LikelihoodsTest, RegressionFindsItsNoiseAndSaysItsParts) {
  AddModel("regression", "\"gaussian\"");
  world_.Start();
  const auto connection = world_.Connect();
  ASSERT_THAT(connection->LoadModel("regression"), IsOk());
  const at::Tensor x = ToTensor(world_.train_inputs());
  const at::Tensor targets =
      world_.network().Forward(x) + 0.3 * reference::RandomNormal({300, 3}, 4, at::kFloat);
  auto fit = FitRequest(*connection, "regression", targets);
  EXPECT_THAT(connection->StartFit(fit),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("states no sigma_noise")));
  for (const auto method : {client::NoiseMethod::kData, client::NoiseMethod::kEvidence}) {
    fit.options.noise_method = method;
    ASSERT_THAT(connection->Fit(fit), IsOk());
    const auto posterior = connection->GetPosterior("regression");
    EXPECT_NEAR(*posterior->options.sigma_noise, 0.3, 0.03);
    const auto prediction = connection->Predict(Request("regression"));
    ASSERT_THAT(prediction, IsOk());
    for (size_t i = 0; i < 120; ++i) {
      EXPECT_NEAR(prediction->aleatoric[i],
                  *posterior->options.sigma_noise * *posterior->options.sigma_noise, 1e-6);
      EXPECT_GT(prediction->epistemic[i], 0);
    }
  }
}

// An artifact of format 1, written by an earlier version, and what that version answered.
TEST(OldArtifactsTest, FormatOneStillPredictsTheSame) {
  const std::string source = std::string(LAPLACED_SOURCE_DIR) + "/tests/data/registry_v1";
  World world;
  std::filesystem::remove_all(world.root() + "/models");
  std::filesystem::copy(source + "/models", world.root() + "/models",
                        std::filesystem::copy_options::recursive);
  world.Start();
  const auto connection = world.Connect();
  const auto model = connection->LoadModel("mlp");
  ASSERT_THAT(model, IsOk());
  EXPECT_EQ(model->state_message, "");
  const std::vector<float> inputs = {0.5f, -1.0f, 0.25f, 2.0f, -0.75f, 0.125f,
                                     1.5f, -0.5f, 0.0f,  0.0f, 0.0f,   0.0f};
  client::PredictRequest request;
  request.model = "mlp";
  request.inputs = ToArray(at::tensor(inputs).view({3, 4}));
  const auto prediction = connection->Predict(request);
  ASSERT_THAT(prediction, IsOk());
  std::ifstream file(source + "/expected.json");
  const auto expected = nlohmann::json::parse(file);
  EXPECT_EQ(prediction->posterior_id, expected["posterior_id"]);
  for (size_t n = 0; n < 3; ++n) {
    const auto& row = expected["rows"][n];
    for (size_t c = 0; c < 3; ++c) {
      EXPECT_NEAR(prediction->mean[3 * n + c], row["mean"][c].get<double>(), 1e-6);
      EXPECT_NEAR(prediction->functional_variance[3 * n + c],
                  row["functional_variance"][c].get<double>(), 1e-8);
    }
    const auto& score = row["ood_scores"]["laplace_entropy"];
    EXPECT_NEAR(prediction->ood_scores[0].values[n], score["value"].get<double>(), 1e-5);
    EXPECT_EQ(prediction->ood_scores[0].is_ood[n], score["is_ood"].get<bool>());
  }
  // It kept no statistics that data could join.
  const auto more = connection->EnsureDataset(world.test_inputs(),
                                              Array{DType::kInt64, {40}, std::string(320, '\0')});
  ASSERT_THAT(more, IsOk());
  client::UpdateRequest update;
  update.model = "mlp";
  update.dataset_id = more->id;
  EXPECT_THAT(connection->Update(update),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("fit again")));
}

}  // namespace
}  // namespace laplaced::integration
