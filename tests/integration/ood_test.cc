// OOD scores through the real server: what they are on real data against NumPy and scikit-learn,
// what they cost, and that thresholds come from the data they are said to come from.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "formats/idx.h"
#include "server/model/feature_layer.h"
#include "server/model/input_transform.h"
#include "server/model/manifest.h"
#include "tests/integration/world.h"
#include "tests/support/python.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_files.h"

namespace laplaced::integration {
namespace {

namespace client = laplace::client;
using test_support::IsOk;
using test_support::StatusIs;
using ::testing::Contains;
using ::testing::HasSubstr;

class OodTest : public ::testing::Test {
 protected:
  void SetUp() override {
    world_.Start();
    client_ = world_.Connect();
    ASSERT_THAT(client_->LoadModel("mlp"), IsOk());
  }

  client::Scores Score(const std::vector<std::string>& names) const {
    client::ScoreRequest request;
    request.model = "mlp";
    request.inputs = world_.test_inputs();
    request.ood_scores = names;
    auto scores = client_->Score(request);
    EXPECT_THAT(scores, IsOk());
    return *std::move(scores);
  }

  World world_;
  std::unique_ptr<client::Client> client_;
};

std::vector<std::vector<double>> Values(const client::Scores& scores) {
  std::vector<std::vector<double>> values;
  for (const client::OodScore& score : scores.ood_scores) values.push_back(score.values);
  return values;
}

TEST_F(OodTest, EveryScoreHasAThresholdAndSurvivesARestart) {
  world_.Fit(*client_);
  const auto posterior = client_->GetPosterior("mlp");
  ASSERT_THAT(posterior, IsOk());
  const std::vector<std::string> names = posterior->available_ood_scores;
  ASSERT_EQ(names.size(), 18u);
  ASSERT_EQ(posterior->ood_thresholds.size(), names.size());
  for (const client::OodThreshold& threshold : posterior->ood_thresholds) {
    EXPECT_THAT(names, Contains(threshold.score));
    EXPECT_EQ(threshold.count, 100) << threshold.score;
    EXPECT_TRUE(std::is_sorted(threshold.id_quantiles.begin(), threshold.id_quantiles.end()));
  }
  EXPECT_EQ(posterior->calibration_dataset_id, posterior->validation_dataset_id);
  ASSERT_TRUE(posterior->features);
  EXPECT_EQ(posterior->features->count, 300);
  EXPECT_EQ(posterior->features->bank_size, 300);
  EXPECT_EQ(posterior->features->n_features, 6);
  EXPECT_EQ(posterior->default_ood_score, "combined");
  const client::Scores before = Score(names);
  world_.Start();
  client_ = world_.Connect();
  EXPECT_EQ(Values(Score(names)), Values(before));
  // Predict says the same.
  client::PredictRequest request;
  request.model = "mlp";
  request.inputs = world_.test_inputs();
  request.ood_scores = names;
  const auto prediction = client_->Predict(request);
  ASSERT_THAT(prediction, IsOk());
  for (size_t i = 0; i < names.size(); ++i) {
    EXPECT_EQ(prediction->ood_scores[i].values, before.ood_scores[i].values) << names[i];
    EXPECT_TRUE(prediction->ood_scores[i].threshold) << names[i];
  }
}

TEST_F(OodTest, ScoresFromLogitsAndFeaturesAskNothingOfThePosterior) {
  world_.Fit(*client_);
  const client::Scores plain = Score({"msp", "gen", "kl_matching", "knn", "vim"});
  EXPECT_EQ(plain.variance_mode, client::VarianceMode::kDefault);
  EXPECT_EQ(plain.estimated_flops, 0);
  EXPECT_EQ(Score({"msp", "variance"}).variance_mode, client::VarianceMode::kExact);
}

TEST_F(OodTest, CalibrationMakesAPosteriorWithThresholdsFromOtherData) {
  const std::string fitted = world_.Fit(*client_);
  const auto before = client_->GetPosterior("mlp");
  const client::Scores scores = Score({"msp", "laplace_entropy"});
  const auto data = client_->EnsureDataset(
      world_.test_inputs(), ToArray(at::zeros({world_.test_inputs().rows()}, at::kLong)));
  ASSERT_THAT(data, IsOk());
  client::CalibrateRequest request;
  request.model = "mlp";
  request.dataset_id = data->id;
  request.target_id_rate = 0.25;
  request.default_ood_score = "laplace_entropy";
  const auto id = client_->Calibrate(request);
  ASSERT_THAT(id, IsOk());
  const auto after = client_->GetPosterior("mlp");
  ASSERT_THAT(after, IsOk());
  EXPECT_EQ(after->id, *id);
  EXPECT_NE(*id, fitted);
  EXPECT_EQ(after->parent_posterior_id, fitted);
  EXPECT_EQ(after->calibration_dataset_id, data->id);
  EXPECT_EQ(after->validation_dataset_id, before->validation_dataset_id);
  EXPECT_EQ(after->eigenvalues, before->eigenvalues);
  ASSERT_EQ(after->ood_thresholds.size(), before->ood_thresholds.size());
  for (const client::OodThreshold& threshold : after->ood_thresholds) {
    EXPECT_EQ(threshold.count, 40);
    EXPECT_EQ(threshold.target_id_rate, 0.25);
  }
  // The same scores; of the 40 calibration examples the threshold is the 31st, so 9 lie above.
  const client::Scores again = Score({"msp", "laplace_entropy"});
  EXPECT_EQ(Values(again), Values(scores));
  for (const client::OodScore& score : again.ood_scores) {
    EXPECT_EQ(std::count(score.is_ood.begin(), score.is_ood.end(), true), 9) << score.name;
  }
  EXPECT_EQ(Score({}).ood_scores.at(0).name, "laplace_entropy");
  // The one it came from is untouched.
  ASSERT_THAT(client_->ActivatePosterior("mlp", 1, fitted), IsOk());
  EXPECT_EQ(client_->GetPosterior("mlp")->ood_thresholds[0].count, 100);
}

TEST_F(OodTest, ACalibrationThatCannotBeSaysWhy) {
  client::CalibrateRequest request;
  request.model = "mlp";
  request.dataset_id = client_->EnsureDataset(world_.train_inputs(), world_.train_targets())->id;
  EXPECT_THAT(client_->Calibrate(request), StatusIs(absl::StatusCode::kFailedPrecondition));
  const std::string fitted = world_.Fit(*client_);
  request.default_ood_score = "surprise";
  EXPECT_THAT(client_->Calibrate(request),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("knn")));
  request.default_ood_score.clear();
  request.target_id_rate = 1;
  EXPECT_THAT(client_->Calibrate(request), StatusIs(absl::StatusCode::kInvalidArgument));
  request.target_id_rate = 0;
  request.dataset_id = client_
                           ->EnsureDataset(ToArray(at::zeros({5, 3}, at::kFloat)),
                                           ToArray(at::zeros({5}, at::kLong)))
                           ->id;
  EXPECT_THAT(client_->Calibrate(request),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("[4]")));
  EXPECT_EQ(client_->GetPosterior("mlp")->id, fitted);
}

TEST_F(OodTest, WithoutValidationDataCalibrationBringsTemplatesAndThresholds) {
  client::FitRequest fit = world_.FitRequest(*client_);
  fit.validation_dataset_id.clear();
  ASSERT_THAT(client_->Fit(fit), IsOk());
  const auto fitted = client_->GetPosterior("mlp");
  EXPECT_THAT(fitted->available_ood_scores, ::testing::Not(Contains("kl_matching")));
  EXPECT_EQ(fitted->default_ood_score, "moderated_energy");
  client::CalibrateRequest request;
  request.model = "mlp";
  request.dataset_id = client_->EnsureDataset(world_.train_inputs(), world_.train_targets())->id;
  request.default_ood_score = "combined";
  ASSERT_THAT(client_->Calibrate(request), IsOk());
  EXPECT_THAT(client_->GetPosterior("mlp")->available_ood_scores, Contains("kl_matching"));
  EXPECT_TRUE(Score({}).ood_scores.at(0).threshold);
}

TEST_F(OodTest, AnUpdateLearnsTheFeaturesOfTheNewData) {
  world_.Fit(*client_);
  const auto data =
      client_->EnsureDataset(world_.test_inputs(), ToArray(at::zeros({40}, at::kLong)));
  client::UpdateRequest request;
  request.model = "mlp";
  request.dataset_id = data->id;
  ASSERT_THAT(client_->Update(request), IsOk());
  const auto updated = client_->GetPosterior("mlp");
  ASSERT_TRUE(updated->features);
  EXPECT_EQ(updated->features->count, 340);
  EXPECT_EQ(updated->features->bank_size, 340);
  // All 40 are in the bank now.
  const std::vector<double> distances = Score({"knn"}).ood_scores[0].values;
  for (size_t i = 0; i < distances.size(); ++i) EXPECT_LT(distances[i], 1e-3) << i;
}

TEST_F(OodTest, AnotherLayersFeaturesDoWithoutTheHead) {
  client::FitRequest fit = world_.FitRequest(*client_);
  fit.options.feature_layer = world_.network().parameters()[0].name;
  ASSERT_THAT(client_->Fit(fit), IsOk());
  const auto posterior = client_->GetPosterior("mlp");
  ASSERT_TRUE(posterior->features);
  EXPECT_EQ(posterior->features->layer, fit.options.feature_layer);
  EXPECT_EQ(posterior->features->n_features, 4);  // the network's inputs
  EXPECT_THAT(posterior->available_ood_scores, Contains("knn"));
  EXPECT_THAT(posterior->available_ood_scores, ::testing::Not(Contains("vim")));
  fit.options.feature_layer = "nope";
  EXPECT_THAT(client_->Fit(fit), StatusIs(absl::StatusCode::kInvalidArgument,
                                          HasSubstr(world_.network().parameters()[0].name)));
}

// Fashion-MNIST against MNIST digits, with the demo network.
class RealDataTest : public ::testing::Test {
 protected:
  static constexpr int64_t kTrain = 1000, kValidation = 300, kEach = 250;

  void SetUp() override {
    python_ = test_support::FindPython("numpy, scipy, sklearn");
    if (python_.empty()) GTEST_SKIP() << "needs Debian's package python3-sklearn";
    for (const std::string& path : {kFashion + "train-images-idx3-ubyte.gz", kMnist}) {
      if (!std::filesystem::exists(path)) GTEST_SKIP() << "needs " << path;
    }
    const std::string folder = world_.root() + "/models/fashion_cnn/1";
    std::filesystem::create_directories(folder);
    for (const char* file : {"/model.pt", "/model.json"}) {
      std::filesystem::copy_file(LAPLACED_SOURCE_DIR "/tests/data/fashion_cnn" + std::string(file),
                                 folder + file);
    }
    world_.Start();
    client_ = world_.Connect();
    ASSERT_THAT(client_->LoadModel("fashion_cnn"), IsOk());
  }

  static at::Tensor Images(const std::string& path, int64_t begin, int64_t count) {
    const auto array = ReadIdx(path);
    EXPECT_THAT(array, IsOk());
    return ToTensor(*array).narrow(0, begin, count).unsqueeze(1);
  }
  static at::Tensor Labels(const std::string& path, int64_t begin, int64_t count) {
    return ToTensor(*ReadIdx(path)).narrow(0, begin, count).to(at::kLong);
  }
  static client::Array Bytes(const at::Tensor& images) {
    const at::Tensor c = images.contiguous();
    client::Array array{client::DType::kUint8, c.sizes().vec(), ""};
    array.bytes.assign(static_cast<const char*>(c.data_ptr()), c.nbytes());
    return array;
  }

  const std::string kFashion = "/usr/share/datasets/fashion-mnist/";
  const std::string kMnist =
      LAPLACED_SOURCE_DIR "/../shared/data/mnist_t10k/t10k-images-idx3-ubyte.gz";
  std::string python_;
  World world_;
  std::unique_ptr<client::Client> client_;
};

TEST_F(RealDataTest, EveryScoresAurocIsThatOfAnIndependentComputation) {
  const std::string images = kFashion + "train-images-idx3-ubyte.gz",
                    labels = kFashion + "train-labels-idx1-ubyte.gz";
  const at::Tensor train = Images(images, 0, kTrain), train_y = Labels(labels, 0, kTrain);
  const at::Tensor validation = Images(images, 50000, kValidation);
  client::FitRequest fit;
  fit.model = "fashion_cnn";
  fit.train_dataset_id = client_->EnsureDataset(Bytes(train), ToArray(train_y))->id;
  fit.validation_dataset_id =
      client_->EnsureDataset(Bytes(validation), ToArray(Labels(labels, 50000, kValidation)))->id;
  fit.options.rank = 10;
  fit.options.direction_batch_size = 128;
  fit.options.curvature_batch_size = 256;
  ASSERT_THAT(client_->Fit(fit), IsOk());
  const auto posterior = client_->GetPosterior("fashion_cnn");

  const at::Tensor x =
      at::cat({Images(kFashion + "t10k-images-idx3-ubyte.gz", 0, kEach), Images(kMnist, 0, kEach)});
  std::map<std::string, at::Tensor> file;
  std::map<std::string, std::vector<double>> served, unused;
  const auto predict = [&](const at::Tensor& rows, const std::string& prefix,
                           std::map<std::string, std::vector<double>>& scores) {
    std::vector<at::Tensor> f, v;
    for (int64_t begin = 0; begin < rows.size(0); begin += 50) {
      client::PredictRequest request;
      request.model = "fashion_cnn";
      request.inputs = Bytes(rows.narrow(0, begin, 50));
      request.ood_scores = posterior->available_ood_scores;
      request.prior_precision = posterior->ood_prior_precision;
      request.return_covariance = true;
      const auto answer = client_->Predict(request);
      ASSERT_THAT(answer, IsOk());
      f.push_back(at::tensor(answer->functional_mean).view({50, 10}));
      v.push_back(at::tensor(answer->functional_covariance).view({50, 10, 10}));
      for (const client::OodScore& score : answer->ood_scores) {
        std::vector<double>& values = scores[score.name];
        values.insert(values.end(), score.values.begin(), score.values.end());
      }
    }
    file[prefix + "f"] = at::cat(f);
    file[prefix + "v"] = at::cat(v);
  };
  ASSERT_NO_FATAL_FAILURE(predict(x, "", served));
  ASSERT_NO_FATAL_FAILURE(predict(validation, "val_", unused));
  for (const auto& [name, values] : served)
    file["served/" + name] = at::tensor(values, at::kDouble);

  // Features by the network itself; that they are those of the head is checked against the outputs.
  std::ostringstream manifest_text;
  manifest_text << std::ifstream(LAPLACED_SOURCE_DIR "/tests/data/fashion_cnn/model.json").rdbuf();
  const Manifest manifest = *ParseManifest("model.json", manifest_text.str());
  const Network network = *Network::Load(LAPLACED_SOURCE_DIR "/tests/data/fashion_cnn/model.pt",
                                         "model.pt", manifest.input_shape, manifest.n_outputs);
  const CapturePlan plan = FindCapturedParameters(network);
  const auto layer = FindFeatureLayer(network, plan, "");
  ASSERT_THAT(layer, IsOk());
  const auto forward = [&](const at::Tensor& raw) {
    return *ForwardFeatures(network, plan, *layer, ToNetworkInput(raw, manifest, network.dtype()));
  };
  const FeatureForward trained = forward(train), scored = forward(x);
  file["train_phi"] = trained.features;
  file["train_f"] = trained.f;
  file["train_y"] = train_y;
  file["val_phi"] = forward(validation).features;
  file["head_w"] = layer->head_weight;
  file["head_b"] = layer->head_bias;
  file["phi"] = scored.features;
  file["is_ood"] = at::cat({at::zeros({kEach}, at::kLong), at::ones({kEach}, at::kLong)});
  EXPECT_LT((at::matmul(scored.features, layer->head_weight.t()) + layer->head_bias -
             file["f"].to(at::kDouble))
                .abs()
                .max()
                .item<double>(),
            1e-4);

  const test_support::TempFolder folder;
  test_support::WriteTensors(folder.path() + "/in.npz", file);
  const auto run = test_support::RunPython(
      python_, "import runpy, sys; runpy.run_path(sys.argv[3], run_name='__main__')",
      {folder.path() + "/in.npz", folder.path() + "/out.npz",
       LAPLACED_SOURCE_DIR "/tests/reference/ood_reference.py"});
  ASSERT_EQ(run.exit_status, 0) << run.output;
  std::istringstream lines(run.output);
  std::string name;
  double mine = 0, independent = 0;
  int compared = 0;
  while (lines >> name >> mine >> independent) {
    // Samples of its own, and another clip of the same bank.
    EXPECT_NEAR(mine, independent, name == "mutual_information" ? 5e-3 : 1e-6) << name;
    ++compared;
  }
  EXPECT_EQ(compared, 17) << run.output;
}

}  // namespace
}  // namespace laplaced::integration
