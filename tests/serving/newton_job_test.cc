// From a request to a new version of a model on disk, as a server reads it.
#include "server/serving/newton_job.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "formats/safetensors.h"
#include "server/linalg/status_macros.h"
#include "server/model/field_error.h"
#include "server/model/parameter_values.h"
#include "server/serving/model_version_writer.h"
#include "tests/reference/networks.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using reference::RandomNormal;
using test_support::IsOk;
using test_support::NamesIn;
using test_support::ReadFileBytes;
using test_support::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

constexpr char kManifest[] =
    R"({"likelihood": "categorical", "input": {"shape": [4]}, "n_outputs": 3,
        "n_data": 200, "weight_decay": 0.001, "description": "of a test"})";

class Handle : public OperationHandle {
 public:
  bool cancelled() const override { return cancel; }
  void Report(const std::string& phase, int64_t, int64_t, double) override { last = phase; }
  bool cancel = false;
  std::string last;
};

class NewtonJobTest : public ::testing::Test {
 protected:
  NewtonJobTest() {
    std::filesystem::create_directories(Folder(1));
    torch::jit::Module module = reference::MakeModule(
        {{"weight", {5, 4}}, {"bias", {5}}, {"head", {3, 5}}},
        "  return torch.linear(torch.linear(x, self.weight, self.bias).tanh(), self.head)\n",
        at::kFloat);
    module.save(Folder(1) + "/model.pt");
    test_support::WriteFileBytes(Folder(1) + "/model.json", kManifest);
    const at::Tensor x = RandomNormal({200, 4}, 1, at::kFloat);
    data_.inputs = x;
    data_.targets = at::mm(x, RandomNormal({4, 3}, 8, at::kFloat)).argmax(1);
    request_.model = "net";
    request_.train_dataset_id = "the-data";
    request_.direction_batch_size = 60;
    request_.curvature_batch_size = 80;
    request_.held_out_size = 60;
  }

  std::string Folder(int version) const {
    return root_.path() + "/models/net/" + std::to_string(version);
  }
  Repository Open() const { return *Repository::Open(root_.path()); }
  std::shared_ptr<const LoadedModel> Load(int64_t version = 1) const {
    return *LoadModel(Open(), {"net", version});
  }
  absl::StatusOr<NewtonJob> Prepare() { return PrepareNewton(Load(), request_, data_, held_out_); }
  absl::StatusOr<NewtonOutcome> Run() {
    LAPLACED_ASSIGN_OR_RETURN(const NewtonJob job, Prepare());
    return RunNewtonJob(job, Open(), handle_);
  }

  test_support::TempFolder root_;
  Dataset data_, held_out_;
  NewtonRequest request_;
  Handle handle_;
};

TEST_F(NewtonJobTest, MakesANewVersionThatAnswersWithTheNewParameters) {
  const std::string before = ReadFileBytes(Folder(1) + "/model.pt");
  const auto outcome = Run();
  ASSERT_THAT(outcome, IsOk());
  EXPECT_EQ(outcome->version, 2);
  EXPECT_TRUE(outcome->result.improved);
  EXPECT_THAT(outcome->summary, HasSubstr("held-out loss"));
  EXPECT_EQ(handle_.last, "saving");
  EXPECT_THAT(NamesIn(root_.path() + "/models/net"), ElementsAre("1", "2"));
  EXPECT_THAT(NamesIn(Folder(2)),
              UnorderedElementsAre("model.pt", "model.json", "newton_step.json"));
  EXPECT_EQ(ReadFileBytes(Folder(1) + "/model.pt"), before);
  EXPECT_EQ(ReadFileBytes(Folder(2) + "/model.json"), kManifest);

  // What a server reads has the loss that was promised.
  const auto old = Load(1), made = Load(2);
  EXPECT_TRUE(at::equal(made->network.FlatParameters(), outcome->result.parameters));
  const auto loss = [&](const LoadedModel& model) {
    return model.manifest.likelihood.Loss(model.network.Forward(data_.inputs), data_.targets)
        .mean()
        .item<double>();
  };
  EXPECT_LT(loss(*made), loss(*old));
  EXPECT_LT(outcome->result.after.loss, outcome->result.before.loss);

  const auto record = nlohmann::json::parse(ReadFileBytes(Folder(2) + "/newton_step.json"));
  EXPECT_EQ(record["from_version"], 1);
  EXPECT_EQ(record["from_checkpoint_sha256"], old->info.checkpoint_sha256);
  EXPECT_EQ(record["train_dataset_id"], "the-data");
  EXPECT_EQ(record["options"]["variant"], "debiased");
  EXPECT_EQ(record["options"]["damping"], 1e-3);
  EXPECT_EQ(record["held_out"]["loss_after"], outcome->result.after.loss);
  EXPECT_EQ(record["steps"].size(), outcome->result.trace.size());
  EXPECT_TRUE(record["steps"][0]["slope_b1"].is_null());
  EXPECT_EQ(record["steps"][1]["slope_b2"], outcome->result.trace[1].slope_b2);
}

TEST_F(NewtonJobTest, TheNextVersionIsAfterTheHighestOne) {
  std::filesystem::create_directories(Folder(7));
  request_.version = 1;
  const auto outcome = Run();
  ASSERT_THAT(outcome, IsOk());
  EXPECT_EQ(outcome->version, 8);
}

TEST_F(NewtonJobTest, WritesNothingIfTheModelWouldNotGetBetter) {
  // Held-out labels are the network's own answers, with much confidence: every step away is worse.
  const auto model = Load();
  SetParameters(model->network, model->network.FlatParameters() * 30);
  held_out_.inputs = RandomNormal({50, 4}, 2, at::kFloat);
  held_out_.targets = model->network.Forward(held_out_.inputs).argmax(1);
  request_.held_out_size = 0;
  data_.targets = (data_.targets + 1).remainder(3);
  const auto job = PrepareNewton(model, request_, data_, held_out_);
  ASSERT_THAT(job, IsOk());
  EXPECT_THAT(RunNewtonJob(*job, Open(), handle_),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("nothing was written, because the model would not get better")));
  EXPECT_THAT(NamesIn(root_.path() + "/models/net"), ElementsAre("1"));
}

TEST_F(NewtonJobTest, CancelledWorkLeavesNothing) {
  handle_.cancel = true;
  EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(NamesIn(root_.path() + "/models/net"), ElementsAre("1"));
}

TEST_F(NewtonJobTest, OptionsThatContradictEachOtherAreNamed) {
  const NewtonRequest good = request_;
  const auto refused = [&](const std::string& field) {
    const absl::Status status = Prepare().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(FieldOf(status), field) << status;
    request_ = good;
  };
  request_.variant = "best";
  refused("options.variant");
  request_.curvature = "mc_fisher";
  refused("options.curvature");
  request_.variant = "single";
  refused("options.curvature_batch_size");
  request_.held_out_dataset_id = "held-out";
  refused("options.held_out_size");
  request_.max_steps = -1;
  refused("options.max_steps");
  request_.damping = -1;
  refused("options.damping");
  request_.curvature_batch_size = 100000;
  refused("options.curvature_batch_size");
}

TEST_F(NewtonJobTest, AVersionThatComesBackAsAnotherNetworkNeverAppears) {
  const auto model = Load();
  // The checkpoint on disk is no longer the one that was loaded.
  SetParameters(model->network, model->network.FlatParameters() + 1);
  EXPECT_THAT(WriteModelVersion(Open(), *model, model->network.FlatParameters(), "{}"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("load it again")));
  // Parameters that no server would load.
  const at::Tensor infinite = at::full({model->network.n_parameters()}, INFINITY);
  EXPECT_THAT(WriteModelVersion(Open(), *Load(), infinite, "{}"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not finite")));
  EXPECT_THAT(NamesIn(root_.path() + "/models/net"), ElementsAre("1"));
}

TEST_F(NewtonJobTest, WeightsOfAnArchitectureBecomeTorchScriptOfIt) {
  const auto script = Load();
  std::filesystem::remove(Folder(1) + "/model.pt");
  std::vector<NamedArrayView> tensors;
  const at::Tensor zero = at::zeros({3});
  const char* const names[] = {"fc1.weight", "fc1.bias", "fc2.weight"};
  for (size_t i = 0; i < 3; ++i) {
    const at::Tensor& value = script->network.parameters()[i].value;
    tensors.push_back({names[i], {DType::kFloat32, value.sizes().vec(), value.data_ptr()}});
  }
  tensors.push_back({"fc2.bias", {DType::kFloat32, {3}, zero.data_ptr()}});
  ASSERT_THAT(WriteSafetensors(Folder(1) + "/model.safetensors", tensors, {}), IsOk());
  auto manifest = nlohmann::json::parse(kManifest);
  const auto expected = manifest;
  manifest["architecture"] = {{"name", "mlp"}, {"activation", "tanh"}};
  test_support::WriteFileBytes(Folder(1) + "/model.json", manifest.dump());

  const auto outcome = Run();
  ASSERT_THAT(outcome, IsOk());
  EXPECT_THAT(NamesIn(Folder(2)),
              UnorderedElementsAre("model.pt", "model.json", "newton_step.json"));
  EXPECT_EQ(nlohmann::json::parse(ReadFileBytes(Folder(2) + "/model.json")), expected);
  const auto made = Load(2);
  EXPECT_TRUE(at::equal(made->network.FlatParameters(), outcome->result.parameters));
  EXPECT_FALSE(at::equal(made->network.FlatParameters(), Load(1)->network.FlatParameters()));
}

TEST_F(NewtonJobTest, KeysOfTheManifestStayButForTheArchitecture) {
  const auto model = Load();
  test_support::WriteFileBytes(
      Folder(1) + "/model.json",
      R"({"architecture": {"name": "mlp"}, "likelihood": "categorical", "input": {"shape": [4]},
          "n_outputs": 3})");
  ASSERT_THAT(WriteModelVersion(Open(), *model, model->network.FlatParameters(), "{}"), IsOk());
  const auto written = nlohmann::json::parse(ReadFileBytes(Folder(2) + "/model.json"));
  EXPECT_EQ(written,
            nlohmann::json::parse(
                R"({"likelihood": "categorical", "input": {"shape": [4]}, "n_outputs": 3})"));
}

}  // namespace
}  // namespace laplaced
