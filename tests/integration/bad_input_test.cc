// Wrong requests to the real server: the right code, a message that names field, expected and got,
// and a server that lives.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>

#include "client/cpp/errors.h"
#include "tests/integration/world.h"
#include "tests/reference/networks.h"
#include "tests/support/status_matchers.h"

namespace laplaced::integration {
namespace {

using absl::StatusCode;
using laplace::client::Client;
using laplace::client::PredictRequest;
using test_support::StatusIs;
using ::testing::HasSubstr;

class BadInputTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    world_ = new World;
    world_->Start();
    world_->Fit(*world_->Connect());
  }
  static void TearDownTestSuite() { delete world_; }

  void TearDown() override {
    // Whatever a test did, a good request is answered afterwards.
    PredictRequest good;
    good.model = "mlp";
    good.inputs = world_->test_inputs();
    EXPECT_THAT(client_->Predict(good), test_support::IsOk());
  }

  static Array Floats(std::vector<int64_t> shape, float value = 0.5f) {
    int64_t count = 1;
    for (int64_t d : shape) count *= d;
    Array array{DType::kFloat32, std::move(shape), std::string(count * 4, '\0')};
    for (int64_t i = 0; i < count; ++i) array.data<float>()[i] = value;
    return array;
  }

  static World* world_;
  std::unique_ptr<Client> client_ = world_->Connect();
};

World* BadInputTest::world_ = nullptr;

TEST_F(BadInputTest, PredictSaysWhatIsWrongWithARequest) {
  struct Case {
    const char* name;
    std::function<void(PredictRequest&)> change;
    StatusCode code;
    const char* field;
    const char* message;
  };
  const std::vector<Case> cases = {
      {"wrong shape",
       [](auto& r) {
         r.inputs = Floats({2, 5});
       },
       StatusCode::kInvalidArgument, "inputs.shape", "expected [B, 4], got [2, 5]"},
      {"no batch dimension", [](auto& r) { r.inputs = Floats({4}); }, StatusCode::kInvalidArgument,
       "inputs.shape", "expected [B, 4], got [4]"},
      {"empty batch",
       [](auto& r) {
         r.inputs = Floats({0, 4});
       },
       StatusCode::kInvalidArgument, "inputs.shape[0]", "at least 1, got 0"},
      {"too many examples",
       [](auto& r) {
         r.inputs = Floats({65, 4});
       },
       StatusCode::kInvalidArgument, "inputs.shape", "at most 64 examples"},
      {"wrong dtype",
       [](auto& r) {
         r.inputs = Array{DType::kUint8, {2, 4}, std::string(8, '\1')};
       },
       StatusCode::kInvalidArgument, "inputs.dtype", "expected float32 or float64, got uint8"},
      {"not a number",
       [](auto& r) {
         r.inputs = Floats({2, 4}, NAN);
       },
       StatusCode::kInvalidArgument, "inputs", "row 0 holds a value that is not finite"},
      {"infinity",
       [](auto& r) {
         r.inputs = Floats({2, 4}, INFINITY);
       },
       StatusCode::kInvalidArgument, "inputs", "not finite"},
      {"unknown model", [](auto& r) { r.model = "nope"; }, StatusCode::kNotFound, "",
       "model nope is not loaded"},
      {"unknown version", [](auto& r) { r.version = 9; }, StatusCode::kNotFound, "",
       "model mlp/9 is not loaded"},
      {"negative precision", [](auto& r) { r.prior_precision = -1; }, StatusCode::kInvalidArgument,
       "prior_precision", "expected a finite number above 0, got -1"},
      {"precision not a number", [](auto& r) { r.prior_precision = NAN; },
       StatusCode::kInvalidArgument, "prior_precision", "finite"},
      {"unknown score",
       [](auto& r) {
         r.ood_scores = {"msp", "magic"};
       },
       StatusCode::kInvalidArgument, "ood_scores[1]", "laplace_entropy"},
      {"path as a name", [](auto& r) { r.model = "../../etc"; }, StatusCode::kInvalidArgument,
       "model", ""},
  };
  for (const Case& c : cases) {
    PredictRequest request;
    request.model = "mlp";
    request.inputs = Floats({2, 4});
    c.change(request);
    const auto answer = client_->Predict(request);
    EXPECT_THAT(answer, StatusIs(c.code, HasSubstr(c.message))) << c.name;
    const auto violations = laplace::client::FieldViolations(answer.status());
    EXPECT_EQ(violations.empty() ? "" : violations[0].field, c.field) << c.name;
  }
}

TEST_F(BadInputTest, InputsThatOverflowAreRefusedAndNeverScoredAsOrdinary) {
  // Finite as sent, infinite in the network's single precision.
  Array doubles{DType::kFloat64, {3, 4}, std::string(96, '\0')};
  for (int64_t i = 0; i < 12; ++i)
    doubles.data<double>()[i] = i < 8 ? 0.5 : 1e300 * (i % 2 == 0 ? 1 : -1);
  for (const std::vector<std::string>& scores :
       {std::vector<std::string>{"energy"},
        std::vector<std::string>{"laplace_entropy", "variance"}}) {
    laplace::client::ScoreRequest request;
    request.model = "mlp";
    request.inputs = doubles;
    request.ood_scores = scores;
    EXPECT_THAT(client_->Score(request),
                StatusIs(StatusCode::kInvalidArgument, HasSubstr("row 2 makes")));
  }
  PredictRequest request;
  request.model = "mlp";
  request.inputs = doubles;
  EXPECT_THAT(client_->Predict(request),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("row 2 makes")));
}

TEST_F(BadInputTest, FitsAreRefusedBeforeTheyStart) {
  const size_t before = client_->ListOperations()->size();
  auto request = world_->FitRequest(*client_);
  request.options.rank = 10000;
  EXPECT_THAT(client_->StartFit(request),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("options.rank")));
  request = world_->FitRequest(*client_);
  request.options.curvature_batch_size = 300;
  EXPECT_THAT(client_->StartFit(request),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("need 400 distinct")));
  request = world_->FitRequest(*client_);
  request.train_dataset_id = "sha256-" + std::string(64, '0');
  EXPECT_THAT(client_->StartFit(request),
              StatusIs(StatusCode::kNotFound, HasSubstr("train_dataset_id")));
  request.train_dataset_id = "../../secret";
  EXPECT_THAT(client_->StartFit(request), StatusIs(StatusCode::kInvalidArgument));
  request = world_->FitRequest(*client_);
  request.model = "nope";
  EXPECT_THAT(client_->StartFit(request), StatusIs(StatusCode::kNotFound));
  EXPECT_EQ(client_->ListOperations()->size(), before);
}

TEST_F(BadInputTest, DataThatDoNotFitTheModelAreRefused) {
  auto request = world_->FitRequest(*client_);
  Array labels = world_->train_targets();
  labels.data<int64_t>()[7] = 3;
  const auto dataset = client_->EnsureDataset(world_->train_inputs(), labels);
  ASSERT_THAT(dataset, test_support::IsOk());
  request.train_dataset_id = dataset->id;
  EXPECT_THAT(
      client_->StartFit(request),
      StatusIs(StatusCode::kInvalidArgument, HasSubstr("row 7 has label 3, expected 0 to 2")));
  EXPECT_THAT(client_->EnsureDataset(Floats({0, 4}), Array{DType::kInt64, {0}, ""}),
              StatusIs(StatusCode::kInvalidArgument));
  EXPECT_THAT(
      client_->EnsureDataset(Floats({1, 4}, NAN), Array{DType::kInt64, {1}, std::string(8, '\0')}),
      StatusIs(StatusCode::kInvalidArgument, HasSubstr("row 0")));
  EXPECT_THAT(client_->EnsureDataset(Floats({100000, 4}),
                                     Array{DType::kInt64, {100000}, std::string(800000, '\0')}),
              StatusIs(StatusCode::kResourceExhausted));
}

TEST_F(BadInputTest, WithoutAPosteriorPredictionSaysHowToGetOne) {
  World bare;
  bare.Start();
  const auto client = bare.Connect();
  PredictRequest request;
  request.model = "mlp";
  request.inputs = bare.test_inputs();
  EXPECT_THAT(client->Predict(request), StatusIs(StatusCode::kFailedPrecondition,
                                                 HasSubstr("has no active posterior: fit one")));
  EXPECT_THAT(client->GetPosterior("mlp"), StatusIs(StatusCode::kFailedPrecondition));
  EXPECT_THAT(client->ActivatePosterior("mlp", 1, "p-none"), StatusIs(StatusCode::kNotFound));
}

TEST_F(BadInputTest, CheckpointsThatCannotServeAreRefusedWithTheReason) {
  struct Case {
    const char* version;
    std::function<void(const std::string&)> spoil;
    StatusCode code;
    const char* message;
  };
  const std::vector<Case> cases = {
      {"11", [](const std::string& f) { std::filesystem::remove(f + "/model.pt"); },
       StatusCode::kNotFound, "model.pt is missing"},
      {"12", [](const std::string& f) { std::filesystem::remove(f + "/model.json"); },
       StatusCode::kNotFound, "model.json is missing"},
      {"13",
       [](const std::string& f) { test_support::WriteFileBytes(f + "/model.pt", "not a zip"); },
       StatusCode::kFailedPrecondition, "not a readable TorchScript file"},
      {"14", [](const std::string& f) { test_support::WriteFileBytes(f + "/model.json", "{"); },
       StatusCode::kFailedPrecondition, "model.json: expected a JSON object"},
      {"15",
       [](const std::string& f) {
         test_support::WriteFileBytes(
             f + "/model.json",
             R"({"likelihood": "categorical", "input": {"shape": [5]}, "n_outputs": 3})");
       },
       StatusCode::kFailedPrecondition, "model.pt: cannot use this module"},
      {"16",
       [](const std::string& f) {
         test_support::WriteFileBytes(
             f + "/model.json",
             R"({"likelihood": "categorical", "input": {"shape": [4]}, "n_outputs": 7})");
       },
       StatusCode::kFailedPrecondition, "expected outputs of shape [3, 7]"},
      {"17",
       [](const std::string& f) {
         reference::MakeModule({{"w", {3, 4}}},
                               "  return torch.softmax(torch.linear(x, self.w), 1)\n", at::kFloat)
             .save(f + "/model.pt");
       },
       StatusCode::kFailedPrecondition, "the outputs look like probabilities"},
  };
  for (const Case& c : cases) {
    const std::string folder = world_->root() + "/models/spoilt/" + c.version;
    std::filesystem::create_directories(folder);
    for (const char* file : {"/model.pt", "/model.json"}) {
      std::filesystem::copy_file(world_->ModelFolder() + file, folder + file);
    }
    c.spoil(folder);
    EXPECT_THAT(client_->LoadModel("spoilt", std::stoll(c.version)),
                StatusIs(c.code, HasSubstr(c.message)))
        << c.version;
  }
  EXPECT_THAT(client_->LoadModel("nope"), StatusIs(StatusCode::kNotFound));
  EXPECT_THAT(client_->LoadModel("../mlp"), StatusIs(StatusCode::kInvalidArgument));
  EXPECT_THAT(client_->LoadModel("mlp", -1), StatusIs(StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace laplaced::integration
