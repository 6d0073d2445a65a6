// A model that is a file of weights and the name of its architecture, through the whole server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "formats/safetensors.h"
#include "tests/integration/world.h"
#include "tests/support/status_matchers.h"

namespace laplaced::integration {
namespace {

using ::laplaced::test_support::IsOk;
using ::laplaced::test_support::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

class ArchitectureTest : public ::testing::Test {
 protected:
  // The world's network, tanh(x w1' + b1) w2' + b2, as a state_dict.
  void AddModel(const std::string& name, const std::string& architecture) {
    const std::string folder = world_.root() + "/models/" + name + "/1";
    std::filesystem::create_directories(folder);
    test_support::WriteFileBytes(
        folder + "/model.json",
        R"({"likelihood": "categorical", "input": {"shape": [4]}, "n_outputs": 3, "n_data": 300,)"
        R"( "weight_decay": 0.01)" +
            architecture + "}");
    std::vector<NamedArrayView> tensors;
    const char* const names[] = {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"};
    for (size_t i = 0; i < world_.network().parameters().size(); ++i) {
      const at::Tensor& value = world_.network().parameters()[i].value;
      tensors.push_back({names[i], {DType::kFloat32, value.sizes().vec(), value.data_ptr()}});
    }
    ASSERT_THAT(WriteSafetensors(folder + "/model.safetensors", tensors, {}), IsOk());
  }

  World world_;
};

TEST_F(ArchitectureTest, FitsAndPredictsAsTheSameNetworkFromTorchScriptDoes) {
  AddModel("weights", R"(, "architecture": {"name": "mlp", "activation": "tanh"})");
  world_.Start();
  const auto client = world_.Connect();
  ASSERT_THAT(client->LoadModel("weights"), IsOk());
  world_.Fit(*client);
  auto fit = world_.FitRequest(*client);
  fit.model = "weights";
  ASSERT_THAT(client->Fit(fit), IsOk());
  laplace::client::PredictRequest request;
  request.inputs = world_.test_inputs();
  request.model = "mlp";
  const auto script = client->Predict(request);
  ASSERT_THAT(script, IsOk());
  request.model = "weights";
  const auto weights = client->Predict(request);
  ASSERT_THAT(weights, IsOk());
  ASSERT_EQ(weights->mean.size(), script->mean.size());
  for (size_t i = 0; i < script->mean.size(); ++i) {
    EXPECT_NEAR(weights->mean[i], script->mean[i], 1e-5);
  }
  for (size_t i = 0; i < script->epistemic.size(); ++i) {
    EXPECT_NEAR(weights->epistemic[i], script->epistemic[i], 1e-5);
  }
}

TEST_F(ArchitectureTest, WhatIsMissingIsSaidWhenTheModelIsLoaded) {
  AddModel("bare", "");
  AddModel("other", R"(, "architecture": "lenet")");
  AddModel("both", R"(, "architecture": {"name": "mlp", "activation": "tanh"})");
  test_support::WriteFileBytes(world_.root() + "/models/both/1/model.pt", "x");
  world_.Start();
  const auto client = world_.Connect();
  constexpr auto kCode = absl::StatusCode::kFailedPrecondition;
  EXPECT_THAT(client->LoadModel("bare"),
              StatusIs(kCode, AllOf(HasSubstr("model.safetensors: holds tensors without a network"),
                                    HasSubstr("add the key \"architecture\" to model.json"),
                                    HasSubstr("fc1.bias, fc1.weight"))));
  EXPECT_THAT(client->LoadModel("other"),
              StatusIs(kCode, HasSubstr("model.safetensors: does not fit architecture lenet")));
  EXPECT_THAT(client->LoadModel("both"),
              StatusIs(kCode, HasSubstr("holds model.pt and model.safetensors, expected one")));
}

}  // namespace
}  // namespace laplaced::integration
