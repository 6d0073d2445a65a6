// Every architecture against PyTorch for Python: tests/reference/architectures_reference.py defines
// the networks a second time, and both sides make the weights by the same rule.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/model/architecture_json.h"
#include "server/model/architectures/build_module.h"
#include "server/model/layer_capture.h"
#include "server/model/network.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using ::laplaced::test_support::IsOk;
using ::laplaced::test_support::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::json;

// Numbers in [-1, 1) that depend on the name: FNV-1a of it starts SplitMix64.
std::vector<double> Uniform(const std::string& name, int64_t count) {
  uint64_t seed = 0xcbf29ce484222325;
  for (const char c : name) seed = (seed ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  std::vector<double> numbers;
  for (int64_t i = 1; i <= count; ++i) {
    uint64_t z = seed + static_cast<uint64_t>(i) * 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    z ^= z >> 31;
    numbers.push_back(static_cast<double>(z >> 11) * 0x1p-52 - 1);
  }
  return numbers;
}

Array RuleArray(const std::string& name, const std::vector<int64_t>& shape) {
  if (absl::EndsWith(name, "num_batches_tracked")) {
    return Array{DType::kInt64, shape, std::string(8, '\0')};
  }
  std::vector<double> values = Uniform(name, *NumElements(shape));
  double fan_in = 1;
  for (size_t i = 1; i < shape.size(); ++i) fan_in *= static_cast<double>(shape[i]);
  for (double& u : values) {
    if (absl::EndsWith(name, "running_var")) {
      u = .75 + .5 * u;
    } else if (shape.size() >= 2) {
      u *= std::sqrt(3 / fan_in);
    } else if (absl::EndsWith(name, ".weight") || absl::EndsWith(name, ".gamma")) {
      u = 1 + .25 * u;
    } else {
      u *= .1;
    }
  }
  Array array = *AllocateArray(DType::kFloat64, shape);
  std::memcpy(array.bytes.data(), values.data(), array.bytes.size());
  return array;
}

Array AsFloat32(const Array& array) {
  if (array.dtype != DType::kFloat64) return array;
  Array narrow = *AllocateArray(DType::kFloat32, array.shape);
  for (size_t i = 0; i < array.bytes.size() / 8; ++i) {
    narrow.data<float>()[i] = static_cast<float>(array.data<double>()[i]);
  }
  return narrow;
}

struct Case {
  Architecture architecture;
  std::vector<int64_t> input_shape;
  Weights weights;
  at::Tensor inputs, logits;
};

std::vector<Case> Cases() {
  std::ifstream file(LAPLACED_SOURCE_DIR "/tests/data/architectures.json");
  std::vector<Case> cases;
  for (const Json& json : Json::parse(file)) {
    Case c;
    c.architecture = *ParseArchitecture("model.json", json["architecture"]);
    c.input_shape = json["input_shape"].get<std::vector<int64_t>>();
    for (const auto& [name, shape] : json["tensors"].items()) {
      c.weights[name] = RuleArray(name, shape.get<std::vector<int64_t>>());
    }
    std::vector<int64_t> shape = c.input_shape;
    shape.insert(shape.begin(), 2);
    c.inputs = at::tensor(Uniform("input", *NumElements(shape)), at::kDouble).reshape(shape);
    std::vector<double> logits;
    for (const Json& row : json["logits"]) {
      for (const Json& logit : row) logits.push_back(logit.get<double>());
    }
    c.logits = at::tensor(logits, at::kDouble).reshape({2, 3});
    cases.push_back(std::move(c));
  }
  return cases;
}

Case CaseOf(const std::string& name) {
  for (Case& c : Cases()) {
    if (c.architecture.name == name) return std::move(c);
  }
  ADD_FAILURE() << "no case of " << name;
  return {};
}

absl::StatusOr<torch::jit::Module> Build(const Case& c, int64_t n_outputs = 3) {
  return BuildModule(c.architecture, c.weights, c.input_shape, n_outputs);
}

TEST(ArchitecturesTest, GiveTheLogitsOfPytorch) {
  const std::vector<Case> cases = Cases();
  EXPECT_EQ(cases.size(), 18u);
  for (const Case& c : cases) {
    SCOPED_TRACE(ArchitectureJson(c.architecture).dump());
    auto module = Build(c);
    ASSERT_THAT(module, IsOk());
    const auto network = Network::FromModule(*std::move(module), c.input_shape, 3);
    ASSERT_THAT(network, IsOk());
    EXPECT_EQ(network->dtype(), at::kDouble);
    EXPECT_TRUE(network->unused_parameters().empty());
    const double error = (network->Forward(c.inputs) - c.logits).abs().max().item<double>();
    EXPECT_LT(error, 1e-9 * std::max(1.0, c.logits.abs().max().item<double>()));
  }
}

// What posteriors, copies and exports are made of works as for a network that PyTorch exported.
TEST(ArchitecturesTest, AreNetworksLikeAllOthers) {
  for (const char* name : {"resnet20", "vit_little", "lenet"}) {
    SCOPED_TRACE(name);
    const Case c = CaseOf(name);
    auto module = Build(c);
    ASSERT_THAT(module, IsOk());
    test_support::TempFolder folder;
    const std::string path = folder.path() + "/model.pt";
    module->save(path);
    const auto exported = Network::Load(path, "model.pt", c.input_shape, 3);
    ASSERT_THAT(exported, IsOk());
    const auto network = Network::FromModule(*std::move(module), c.input_shape, 3);
    ASSERT_THAT(network, IsOk());
    const auto clone = network->Clone();
    ASSERT_THAT(clone, IsOk());
    const at::Tensor f = network->Forward(c.inputs);
    EXPECT_TRUE(at::equal(exported->Forward(c.inputs), f));
    EXPECT_TRUE(at::equal(clone->Forward(c.inputs), f));
    ASSERT_EQ(exported->parameters().size(), network->parameters().size());
    for (size_t i = 0; i < network->parameters().size(); ++i) {
      EXPECT_EQ(exported->parameters()[i].name, network->parameters()[i].name);
      EXPECT_EQ(c.weights.count(network->parameters()[i].name), 1u);
    }
    const CapturePlan plan = FindCapturedParameters(*network);
    size_t captured = 0;
    for (const bool is : plan.captured) captured += is;
    EXPECT_GE(captured + 3, plan.captured.size()) << "too many parameters take the slow way";
  }
}

TEST(ArchitecturesTest, TakeSinglePrecision) {
  Case c = CaseOf("resnet20");
  for (auto& [name, array] : c.weights) array = AsFloat32(array);
  auto module = Build(c);
  ASSERT_THAT(module, IsOk());
  const auto network = Network::FromModule(*std::move(module), c.input_shape, 3);
  ASSERT_THAT(network, IsOk());
  EXPECT_EQ(network->dtype(), at::kFloat);
  const at::Tensor f = network->Forward(c.inputs.to(at::kFloat));
  EXPECT_LT((f - c.logits).abs().max().item<double>(), 1e-4);
  c.weights["bn1.running_mean"] = RuleArray("bn1.running_mean", {2});
  EXPECT_THAT(Build(c), StatusIs(absl::StatusCode::kFailedPrecondition,
                                 HasSubstr("tensors mix types: bn1.running_mean is float64")));
}

TEST(ArchitecturesTest, SayWhatDoesNotFitAllAtOnce) {
  Case c = CaseOf("resnet20");
  c.weights.erase("bn1.weight");
  c.weights.erase("layer3.2.bn2.weight");
  c.weights["extra.weight"] = RuleArray("extra.weight", {3});
  c.weights["layer2.0.bn1.bias"] = RuleArray("x", {5});
  EXPECT_THAT(Build(c, 10),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("does not fit architecture resnet20"),
                             HasSubstr("missing 2 tensors: bn1.weight, layer3.2.bn2.weight;"),
                             HasSubstr("left over 1 tensor: extra.weight;"),
                             HasSubstr("layer2.0.bn1.bias has shape [5], expected [4]"),
                             HasSubstr("linear.weight has shape [3, 8], expected [10, 8]"))));
}

TEST(ArchitecturesTest, RefuseAnotherDepthShapeOrType) {
  const auto refused = [](const Case& c, const std::string& text) {
    EXPECT_THAT(Build(c), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(text)));
  };
  Case c = CaseOf("resnet32");
  c.architecture.name = "resnet20";
  refused(c, "left over 60 tensors: layer1.3.bn1.bias");
  c = CaseOf("resnet32");
  c.architecture.shortcut = "B";
  refused(c, "missing 10 tensors: layer2.0.shortcut.0.weight");
  c = CaseOf("all_cnn_c");
  c.input_shape = {3, 6, 6};
  refused(c, "too small: conv7 needs 3 pixels along each side and gets 2");
  c.input_shape = {48};
  refused(c, "conv1 is a convolution and needs [channels, height, width], got [48]");
  c = CaseOf("lenet");
  c.architecture.first_padding = 0;
  refused(c, "needs 5 pixels");
  c = CaseOf("vit_little");
  c.architecture.heads = 0;
  refused(c, "state architecture.heads");
  c.architecture.heads = 5;
  c.input_shape = {3, 9, 8};
  refused(c, "are no whole number of patches of 4 x 4");
  c.input_shape = {3, 12, 8};
  refused(c, "pos_embed has shape [1, 4, 20], expected [1, 10, 20]");
  c = CaseOf("mlp");
  c.input_shape = {7};
  refused(c, "1.weight has shape [5, 6], expected [any, 7]");
  c.weights["1.weight"].dtype = DType::kInt64;
  refused(c, "1.weight has type int64, expected floating point");
}

TEST(ArchitecturesTest, AnMlpWhoseOrderIsNotClearAsksForIt) {
  Case c = CaseOf("mlp");
  c.weights.clear();
  for (const char* layer : {"entry", "body", "exit"}) {
    c.weights[absl::StrCat(layer, ".weight")] = RuleArray(layer, {6, 6});
  }
  c.input_shape = {6};
  EXPECT_THAT(Build(c), StatusIs(absl::StatusCode::kFailedPrecondition,
                                 HasSubstr("state architecture.layers, from input to output, made "
                                           "of \"body\", \"entry\", \"exit\"")));
  c.weights = {{"a\"); print(\"1.weight", RuleArray("x", {3, 6})}};
  EXPECT_THAT(Build(c), StatusIs(absl::StatusCode::kFailedPrecondition,
                                 HasSubstr("expected letters, digits and '_' between dots")));
}

}  // namespace
}  // namespace laplaced
