// Load, fit, predict, score through the real server and the real client, against dense references.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <thread>

#include "server/laplace/predictive.h"
#include "server/registry/posterior_artifact.h"
#include "tests/integration/world.h"
#include "tests/reference/dense.h"
#include "tests/reference/networks.h"
#include "tests/support/status_matchers.h"

namespace laplaced::integration {
namespace {

using laplace::client::Prediction;
using test_support::IsOk;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

at::Tensor Floats(const std::vector<float>& values, at::IntArrayRef shape) {
  return at::tensor(values, at::kFloat).view(shape).to(at::kDouble);
}

class EndToEndTest : public ::testing::Test {
 protected:
  EndToEndTest() { world_.Start(); }

  laplace::client::PredictRequest Request() const {
    laplace::client::PredictRequest request;
    request.model = "mlp";
    request.inputs = world_.test_inputs();
    request.return_covariance = true;
    request.ood_scores = {"msp", "energy", "variance", "laplace_entropy", "mutual_information"};
    return request;
  }

  World world_;
};

void ExpectSameDigits(const Prediction& a, const Prediction& b) {
  EXPECT_EQ(a.posterior_id, b.posterior_id);
  EXPECT_EQ(a.mean, b.mean);
  EXPECT_EQ(a.functional_covariance, b.functional_covariance);
  EXPECT_EQ(a.epistemic, b.epistemic);
  EXPECT_EQ(a.aleatoric, b.aleatoric);
  ASSERT_EQ(a.ood_scores.size(), b.ood_scores.size());
  for (size_t i = 0; i < a.ood_scores.size(); ++i) {
    EXPECT_EQ(a.ood_scores[i].values, b.ood_scores[i].values) << a.ood_scores[i].name;
    EXPECT_EQ(a.ood_scores[i].threshold, b.ood_scores[i].threshold);
  }
}

TEST_F(EndToEndTest, PredictionsAreThoseOfTheDensePosterior) {
  const auto client = world_.Connect();
  const std::string id = world_.Fit(*client);
  const auto posterior = client->GetPosterior("mlp");
  ASSERT_THAT(posterior, IsOk());
  EXPECT_EQ(posterior->id, id);
  EXPECT_TRUE(posterior->active);
  const auto artifact = ReadPosteriorArtifact(world_.PosteriorFolder(id));
  ASSERT_THAT(artifact, IsOk());
  const ArrayView view = *artifact->tensors.Get("directions");
  const at::Tensor u =
      at::from_blob(const_cast<void*>(view.data), view.shape, at::kFloat).to(at::kDouble);
  EXPECT_LT(Max(at::mm(u.t(), u) - at::eye(u.size(1), at::kDouble)), 1e-5);

  // The covariance from its definition, from what GetPosterior says.
  const double n = 300, delta = posterior->prior_precision;
  std::vector<at::Tensor> residual;
  for (const auto& block : posterior->blocks) {
    residual.push_back(at::full({block.n_parameters}, block.residual, at::kDouble));
  }
  EXPECT_GT(Max(at::cat(residual)), 0);
  const auto covariance = [&](double prior) {
    return at::inverse(at::mm(u * (n * at::tensor(posterior->eigenvalues, at::kDouble)), u.t()) +
                       at::diag(prior + n * at::cat(residual)));
  };
  const auto prediction = client->Predict(Request());
  ASSERT_THAT(prediction, IsOk());
  EXPECT_EQ(prediction->posterior_id, id);
  const at::Tensor x = ToTensor(world_.test_inputs());
  const at::Tensor j = reference::Jacobians(world_.network(), x);
  const at::Tensor f = world_.network().Forward(x).to(at::kDouble);
  const at::Tensor v = at::matmul(at::matmul(j, covariance(delta)), j.transpose(1, 2));
  EXPECT_LT(Max(Floats(prediction->functional_mean, {40, 3}) - f), 1e-5);
  EXPECT_LT(Max(Floats(prediction->functional_covariance, {40, 3, 3}) - v), 2e-4 * Max(v));
  EXPECT_LT(Max(Floats(prediction->functional_variance, {40, 3}) - v.diagonal(0, 1, 2)),
            2e-4 * Max(v));
  EXPECT_LT(Max(Floats(prediction->mean, {40, 3}) - ProbitProbabilities(f, v.diagonal(0, 1, 2))),
            1e-4);
  EXPECT_LT(Max(Floats(prediction->map_mean, {40, 3}) - at::softmax(f, 1)), 1e-5);

  // Scores use the other prior: n_data * weight_decay.
  EXPECT_DOUBLE_EQ(posterior->ood_prior_precision, 3.0);
  const at::Tensor v_ood = at::matmul(at::matmul(j, covariance(3.0)), j.transpose(1, 2));
  const at::Tensor trace = v_ood.diagonal(0, 1, 2).sum(1);
  EXPECT_EQ(prediction->ood_scores[2].name, "variance");
  EXPECT_LT(Max(at::tensor(prediction->ood_scores[2].values, at::kDouble) - trace),
            2e-4 * Max(trace));
}

TEST_F(EndToEndTest, AnswersAreCompleteAndConsistent) {
  const auto client = world_.Connect();
  world_.Fit(*client);
  const auto prediction = client->Predict(Request());
  ASSERT_THAT(prediction, IsOk());
  EXPECT_EQ(prediction->batch, 40);
  EXPECT_EQ(prediction->outputs, 3);
  for (int64_t n = 0; n < 40; ++n) {
    double sum = 0;
    for (int64_t c = 0; c < 3; ++c) sum += prediction->mean[n * 3 + c];
    EXPECT_NEAR(sum, 1, 1e-5);
    EXPECT_GE(prediction->epistemic[n], 0);
    EXPECT_LE(prediction->epistemic[n] + prediction->aleatoric[n], std::log(3.0) + 1e-5);
  }
  for (const auto& score : prediction->ood_scores) {
    ASSERT_TRUE(score.threshold.has_value()) << score.name;
    for (size_t n = 0; n < score.values.size(); ++n) {
      EXPECT_EQ(score.is_ood[n], score.values[n] > *score.threshold);
    }
  }
  // Score gives the same values as Predict.
  laplace::client::ScoreRequest request;
  request.model = "mlp";
  request.inputs = world_.test_inputs();
  request.ood_scores = Request().ood_scores;
  const auto scores = client->Score(request);
  ASSERT_THAT(scores, IsOk());
  for (size_t i = 0; i < scores->ood_scores.size(); ++i) {
    EXPECT_EQ(scores->ood_scores[i].values, prediction->ood_scores[i].values);
  }
  request.ood_scores.clear();
  EXPECT_EQ(client->Score(request)->ood_scores.at(0).name, "combined");
}

TEST_F(EndToEndTest, ARestartChangesNoDigit) {
  auto client = world_.Connect();
  world_.Fit(*client);
  const auto before = client->Predict(Request());
  ASSERT_THAT(before, IsOk());
  world_.Stop();
  world_.Start();
  client = world_.Connect();
  const auto after = client->Predict(Request());
  ASSERT_THAT(after, IsOk());
  ExpectSameDigits(*before, *after);
}

TEST_F(EndToEndTest, TheSameSeedGivesTheSamePosteriorAndActivationSwitches) {
  const auto client = world_.Connect();
  const std::string first = world_.Fit(*client, 1);
  const auto expected = client->Predict(Request());
  const std::string second = world_.Fit(*client, 2);
  EXPECT_NE(client->Predict(Request())->mean, expected->mean);
  ASSERT_THAT(client->ActivatePosterior("mlp", 1, first), IsOk());
  ExpectSameDigits(*client->Predict(Request()), *expected);
  const std::string again = world_.Fit(*client, 1);
  EXPECT_EQ(client->Predict(Request())->mean, expected->mean);
  const auto list = client->ListPosteriors("mlp");
  ASSERT_THAT(list.status(), IsOk());
  ASSERT_EQ(list->size(), 3u);
  EXPECT_EQ((*list)[0].id, again);
  EXPECT_TRUE((*list)[0].active);
  EXPECT_EQ((*list)[1].id, second);
}

TEST_F(EndToEndTest, ADeletedPosteriorIsGoneAndTheActiveOneStays) {
  const auto client = world_.Connect();
  const std::string first = world_.Fit(*client, 1);
  const std::string second = world_.Fit(*client, 2);
  const auto before = client->Predict(Request());
  EXPECT_THAT(client->DeletePosterior("mlp", 1, second),
              test_support::StatusIs(absl::StatusCode::kFailedPrecondition,
                                     ::testing::HasSubstr("active")));
  ASSERT_THAT(client->DeletePosterior("mlp", 0, first), IsOk());
  EXPECT_FALSE(std::filesystem::exists(world_.PosteriorFolder(first)));
  EXPECT_THAT(client->DeletePosterior("mlp", 1, first),
              test_support::StatusIs(absl::StatusCode::kNotFound, ::testing::HasSubstr(first)));
  EXPECT_THAT(client->ActivatePosterior("mlp", 1, first),
              test_support::StatusIs(absl::StatusCode::kNotFound));
  const auto list = client->ListPosteriors("mlp");
  ASSERT_THAT(list.status(), IsOk());
  ASSERT_EQ(list->size(), 1u);
  EXPECT_EQ((*list)[0].id, second);
  ExpectSameDigits(*client->Predict(Request()), *before);
  // Also while the model is not loaded.
  ASSERT_THAT(client->UnloadModel("mlp"), IsOk());
  EXPECT_THAT(client->DeletePosterior("mlp", 0, second),
              test_support::StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(EndToEndTest, PerRequestPrecisionMovesTheAnswerAndLeavesThePosterior) {
  const auto client = world_.Connect();
  world_.Fit(*client);
  auto request = Request();
  const auto before = client->Predict(request);
  request.prior_precision = 1e9;
  const auto sharp = client->Predict(request);
  ASSERT_THAT(sharp, IsOk());
  EXPECT_DOUBLE_EQ(sharp->prior_precision, 1e9);
  EXPECT_LT(Max(Floats(sharp->mean, {40, 3}) - Floats(sharp->map_mean, {40, 3})), 1e-5);
  request.prior_precision = absl::nullopt;
  ExpectSameDigits(*client->Predict(request), *before);
  request.link_approx = laplace::client::LinkApprox::kMonteCarlo;
  const auto sampled = client->Predict(request);
  EXPECT_NE(sampled->mean, before->mean);
  // The sampled mean carries the entropy that the two parts add up to.
  const at::Tensor p = Floats(sampled->mean, {40, 3});
  const at::Tensor total = Floats(sampled->epistemic, {40}) + Floats(sampled->aleatoric, {40});
  EXPECT_LT(Max(Entropy(p) - total), 1e-5);
}

TEST_F(EndToEndTest, ManyClientsGetTheAnswersOfOne) {
  const auto client = world_.Connect();
  world_.Fit(*client);
  const auto alone = client->Predict(Request());
  ASSERT_THAT(alone, IsOk());
  std::vector<std::thread> threads;
  std::atomic<int> equal{0};
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      const auto mine = world_.Connect();
      for (int i = 0; i < 5; ++i) {
        const auto answer = mine->Predict(Request());
        equal += answer.ok() && answer->mean == alone->mean &&
                 answer->functional_covariance == alone->functional_covariance;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(equal, 40);
}

TEST_F(EndToEndTest, PredictionsGoOnWhileAFitRunsAndLoadsAreRepeated) {
  const auto client = world_.Connect();
  world_.Fit(*client);
  std::atomic<bool> done{false};
  std::thread fitter([&] {
    for (uint64_t seed = 1; seed < 4; ++seed) world_.Fit(*client, seed);
    done = true;
  });
  int answers = 0;
  while (!done) {
    EXPECT_THAT(client->LoadModel("mlp"), IsOk());
    EXPECT_THAT(client->Predict(Request()), IsOk());
    ++answers;
  }
  fitter.join();
  EXPECT_GT(answers, 0);
}

TEST_F(EndToEndTest, ABadNewVersionLeavesTheServedOneAlone) {
  const auto client = world_.Connect();
  world_.Fit(*client);
  const auto before = client->Predict(Request());
  const std::string bad = world_.root() + "/models/mlp/2";
  std::filesystem::copy(world_.ModelFolder(), bad, std::filesystem::copy_options::recursive);
  std::filesystem::resize_file(bad + "/model.pt", 500);
  const auto loaded = client->LoadModel("mlp", 2);
  EXPECT_THAT(loaded, test_support::StatusIs(
                          absl::StatusCode::kFailedPrecondition,
                          ::testing::HasSubstr("model.pt: not a readable TorchScript file")));
  ExpectSameDigits(*client->Predict(Request()), *before);
  const auto models = client->ListModels();
  ASSERT_EQ(models->size(), 2u);
  EXPECT_EQ((*models)[1].state, laplace::client::ModelState::kFailed);
  EXPECT_NE((*models)[1].state_message, "");
}

TEST_F(EndToEndTest, ADamagedPosteriorIsRefusedAndTheActiveOneGoesOn) {
  const auto client = world_.Connect();
  const std::string first = world_.Fit(*client, 1);
  world_.Fit(*client, 2);
  const auto before = client->Predict(Request());
  const std::string tensors = world_.PosteriorFolder(first) + "/tensors.safetensors";
  std::string bytes = test_support::ReadFileBytes(tensors);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  std::filesystem::remove(tensors);  // the old file may be mapped
  test_support::WriteFileBytes(tensors, bytes);
  EXPECT_THAT(client->ActivatePosterior("mlp", 1, first),
              test_support::StatusIs(absl::StatusCode::kDataLoss,
                                     ::testing::HasSubstr("tensors.safetensors")));
  ExpectSameDigits(*client->Predict(Request()), *before);
}

TEST_F(EndToEndTest, APosteriorOfAnotherCheckpointIsRefused) {
  const auto client = world_.Connect();
  const std::string id = world_.Fit(*client);
  const std::string other = world_.root() + "/models/mlp/2";
  std::filesystem::copy(world_.ModelFolder(), other, std::filesystem::copy_options::recursive);
  reference::MakeModule({{"w1", {6, 4}}, {"b1", {6}}, {"w2", {3, 6}}, {"b2", {3}}},
                        "  h = torch.tanh(torch.linear(x, self.w1, self.b1))\n"
                        "  return torch.linear(h, self.w2, self.b2)\n",
                        at::kFloat, 77)
      .save(other + "/model.pt");
  std::filesystem::remove(other + "/ACTIVE");
  ASSERT_THAT(client->LoadModel("mlp", 2), IsOk());
  EXPECT_THAT(client->ActivatePosterior("mlp", 2, id),
              test_support::StatusIs(absl::StatusCode::kFailedPrecondition,
                                     ::testing::HasSubstr("fitted to another checkpoint")));
}

TEST_F(EndToEndTest, AnUnusableActivePosteriorIsToldAndRepairedThroughTheApi) {
  auto client = world_.Connect();
  const std::string good = world_.Fit(*client);
  const auto before = client->Predict(Request());
  world_.Stop();
  test_support::WriteFileBytes(world_.ModelFolder() + "/ACTIVE", "p-gone\n");
  world_.Start();
  client = world_.Connect();
  const auto model = client->GetModel("mlp");
  ASSERT_THAT(model, IsOk());
  EXPECT_EQ(model->state, laplace::client::ModelState::kReady);
  EXPECT_THAT(model->state_message, ::testing::HasSubstr("the active posterior cannot be used"));
  EXPECT_THAT(client->Predict(Request()),
              test_support::StatusIs(absl::StatusCode::kFailedPrecondition,
                                     ::testing::HasSubstr("p-gone")));
  ASSERT_THAT(client->ActivatePosterior("mlp", 1, good), IsOk());
  ExpectSameDigits(*client->Predict(Request()), *before);
  EXPECT_EQ(client->GetModel("mlp")->state_message, "");
}

TEST_F(EndToEndTest, APosteriorBelongsToItsManifestToo) {
  auto client = world_.Connect();
  world_.Fit(*client);
  world_.Stop();
  const std::string path = world_.ModelFolder() + "/model.json";
  std::string manifest = test_support::ReadFileBytes(path);
  manifest.replace(manifest.find("0.01"), 4, "0.02");
  test_support::WriteFileBytes(path, manifest);
  world_.Start();
  client = world_.Connect();
  EXPECT_THAT(client->Predict(Request()),
              test_support::StatusIs(absl::StatusCode::kFailedPrecondition,
                                     ::testing::HasSubstr("fitted with another model.json")));
  world_.Fit(*client);
  EXPECT_THAT(client->Predict(Request()), IsOk());
}

TEST_F(EndToEndTest, ValidationDataThatWereTrainedOnAreRemarkedUpon) {
  const auto client = world_.Connect();
  auto request = world_.FitRequest(*client);
  request.validation_dataset_id = request.train_dataset_id;
  ASSERT_THAT(client->Fit(request), IsOk());
  EXPECT_THAT(client->GetPosterior("mlp")->warnings,
              ::testing::Contains(::testing::HasSubstr(
                  "300 of 300 validation examples are in the training data too")));
}

TEST_F(EndToEndTest, ACancelledFitLeavesNothingBehind) {
  const auto client = world_.Connect();
  auto request = world_.FitRequest(*client);
  request.options.rank = 51;
  request.options.lanczos_tolerance = 1e-14;
  request.options.max_products = 1000000;
  int reports = 0;
  const auto id =
      client->Fit(request, [&](const laplace::client::Operation&) { return ++reports < 2; });
  EXPECT_THAT(id, test_support::StatusIs(absl::StatusCode::kCancelled));
  EXPECT_TRUE(client->ListPosteriors("mlp")->empty());
  EXPECT_EQ(client->GetModel("mlp")->active_posterior_id, "");
}

}  // namespace
}  // namespace laplaced::integration
