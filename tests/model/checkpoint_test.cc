#include "server/model/checkpoint.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "formats/safetensors.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using ::laplaced::test_support::IsOk;
using ::laplaced::test_support::StatusIs;
using ::laplaced::test_support::TempFolder;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr absl::StatusCode kPrecondition = absl::StatusCode::kFailedPrecondition;
constexpr char kWeights[] = LAPLACED_SOURCE_DIR "/tests/data/weights/";

Manifest ManifestOf(const std::string& architecture, const std::string& shape = "[2]",
                    int n_outputs = 2) {
  const std::string key =
      architecture.empty() ? "" : absl::StrCat(", \"architecture\": ", architecture);
  return *ParseManifest("model.json",
                        absl::StrCat(R"({"likelihood": "categorical", "input": {"shape": )", shape,
                                     R"(}, "n_outputs": )", n_outputs, key, "}"));
}

TEST(CheckpointTest, ReadsWeightsOfAnArchitecture) {
  TempFolder folder;
  const float weight[] = {1, 2, -1, .5};
  ASSERT_THAT(WriteSafetensors(folder.path() + "/model.safetensors",
                               {{"fc.weight", {DType::kFloat32, {2, 2}, weight}}}, {}),
              IsOk());
  const auto network = LoadCheckpoint(folder.path() + "/model.safetensors", "model.safetensors",
                                      ManifestOf("\"mlp\""));
  ASSERT_THAT(network, IsOk());
  const at::Tensor f = network->Forward(at::tensor({3.f, 1.f}).view({1, 2}));
  EXPECT_TRUE(at::equal(f, at::tensor({5.f, -2.5f}).view({1, 2})));
}

TEST(CheckpointTest, WeightsWithoutAnArchitectureAreToldWhichKeyToAdd) {
  for (const char* name : {"zip.pth", "legacy.pth"}) {
    EXPECT_THAT(LoadCheckpoint(std::string(kWeights) + name, name, ManifestOf("")),
                StatusIs(kPrecondition,
                         AllOf(HasSubstr(name), HasSubstr("add the key \"architecture\""),
                               HasSubstr("resnet20"), HasSubstr("bn.running_mean, conv.weight"))));
  }
}

TEST(CheckpointTest, TorchScriptWithAnArchitectureIsToldToRemoveIt) {
  EXPECT_THAT(
      LoadCheckpoint(std::string(kWeights) + "script.pt", "model.pt", ManifestOf("\"mlp\"")),
      StatusIs(kPrecondition, AllOf(HasSubstr("model.pt: is TorchScript"),
                                    HasSubstr("remove the key \"architecture\" (\"mlp\")"))));
  EXPECT_THAT(LoadCheckpoint(std::string(kWeights) + "script.pt", "model.pt", ManifestOf("")),
              IsOk());
}

TEST(CheckpointTest, WhatIsWrongWithTheFileIsSaid) {
  const auto load = [](const std::string& file, const std::string& architecture) {
    return LoadCheckpoint(kWeights + file, file, ManifestOf(architecture));
  };
  EXPECT_THAT(
      load("module.pth", "\"mlp\""),
      StatusIs(kPrecondition, HasSubstr("module.pth: pickle, byte 2: the object "
                                        "'torch.nn.modules.linear.Linear' is not allowed")));
  EXPECT_THAT(load("zip.pth", "\"resnet20\""),
              StatusIs(kPrecondition,
                       AllOf(HasSubstr("zip.pth: does not fit architecture resnet20: missing"),
                             HasSubstr("left over 3 tensors: bn.running_mean, conv.weight, "
                                       "fc.weight"))));
  EXPECT_THAT(load("module.pth", ""),
              StatusIs(kPrecondition, HasSubstr("not a readable TorchScript file")));
}

// The published checkpoint and the TorchScript that was traced from it with PyTorch 1.13.
TEST(CheckpointTest, APublishedResnetGivesTheLogitsOfItsTrace) {
  const std::string folder = LAPLACED_SOURCE_DIR "/../shared/data/resnet20_cifar10";
  if (!std::filesystem::exists(folder + "/resnet20-12fca82f.th")) {
    GTEST_SKIP() << "needs " << folder << " with resnet20-12fca82f.th (of "
                 << "akamaster/pytorch_resnet_cifar10) and resnet20.pt, its trace";
  }
  const auto weights = LoadCheckpoint(folder + "/resnet20-12fca82f.th", "model.th",
                                      ManifestOf("\"resnet20\"", "[3, 32, 32]", 10));
  ASSERT_THAT(weights, IsOk());
  const auto traced =
      LoadCheckpoint(folder + "/resnet20.pt", "model.pt", ManifestOf("", "[3, 32, 32]", 10));
  ASSERT_THAT(traced, IsOk());
  EXPECT_EQ(weights->n_parameters(), 269722);
  at::manual_seed(3);
  const at::Tensor x = at::randn({16, 3, 32, 32});
  const double error = (weights->Forward(x) - traced->Forward(x)).abs().max().item<double>();
  EXPECT_LT(error, 1e-4);
}

}  // namespace
}  // namespace laplaced
