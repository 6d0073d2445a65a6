#include "server/model/parameter_selection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/script.h>

#include "server/model/field_error.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::MakeModule;
using reference::MakeNetwork;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A layer with weight [outputs, inputs] and bias, and the given forward source.
torch::jit::Module Layer(int64_t inputs, int64_t outputs,
                         const std::string& body =
                             "  return torch.linear(x, self.weight, "
                             "self.bias)\n") {
  return MakeModule({{"weight", {outputs, inputs}}, {"bias", {outputs}}}, body, at::kDouble);
}

// A root module over submodules.
Network Nested(const std::vector<std::pair<std::string, torch::jit::Module>>& modules,
               const std::string& body) {
  torch::jit::Module root("root");
  for (const auto& [name, module] : modules) root.register_module(name, module);
  root.register_attribute("training", c10::BoolType::get(), true);
  root.define("def forward(self, x):\n" + body);
  return MakeNetwork(root, {4}, 3);
}

Network Root(const std::vector<std::pair<std::string, std::vector<int64_t>>>& parameters,
             const std::string& body) {
  return MakeNetwork(MakeModule(parameters, body, at::kDouble), {4}, 3);
}

class MatchParametersTest : public ::testing::Test {
 protected:
  const Network network_ = Nested({{"body", Layer(4, 5)}, {"head", Layer(5, 3)}},
                                  "  return self.head.forward(torch.tanh(self.body.forward(x)))\n");
};

TEST_F(MatchParametersTest, WildcardsStandForCharactersOfWholeNames) {
  const auto match = [&](const std::vector<std::string>& patterns) {
    return MatchParameters(network_, patterns).value();
  };
  EXPECT_THAT(match({}), ElementsAre("body.weight", "body.bias", "head.weight", "head.bias"));
  EXPECT_THAT(match({"*"}), ElementsAre("body.weight", "body.bias", "head.weight", "head.bias"));
  EXPECT_THAT(match({"head.*"}), ElementsAre("head.weight", "head.bias"));
  EXPECT_THAT(match({"*.bias"}), ElementsAre("body.bias", "head.bias"));
  EXPECT_THAT(match({"????.b*s"}), ElementsAre("body.bias", "head.bias"));
  EXPECT_THAT(match({"h*d*.*t*"}), ElementsAre("head.weight"));
  EXPECT_THAT(match({"head.bias", "body.*"}), ElementsAre("body.weight", "body.bias", "head.bias"));
  EXPECT_THAT(match({"head.bias", "head.b*"}), ElementsAre("head.bias"));
}

TEST_F(MatchParametersTest, PatternsThatMatchNothingAreNamed) {
  for (const std::string pattern : {"head", "bias", "head.*?.bias", "", "Head.*", "head.bias?"}) {
    const absl::Status status = MatchParameters(network_, {"*", pattern}).status();
    EXPECT_EQ(FieldOf(status), "options.parameters[1]");
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("\"" + pattern + "\" matches no parameter; there are body.weight, "));
  }
}

TEST(MatchParametersOfTest, UnusedParametersAndLongListsAreTold) {
  std::vector<std::pair<std::string, std::vector<int64_t>>> parameters = {{"w", {3, 4}},
                                                                          {"spare", {2}}};
  std::string body = "  y = torch.linear(x, self.w)\n";
  for (int i = 0; i < 9; ++i) {
    parameters.push_back({"b" + std::to_string(i), {3}});
    body += "  y = y + self.b" + std::to_string(i) + "\n";
  }
  const Network network = Root(parameters, body + "  return y\n");
  const absl::Status status = MatchParameters(network, {"spare"}).status();
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("b6 and 2 more (the outputs do not depend on spare)"));
}

TEST(LastLayerTest, IsTheModuleThatTheOutputsReachFirst) {
  const std::string body = "  return self.head.forward(torch.tanh(self.body.forward(x)))\n";
  EXPECT_THAT(LastLayerParameters(Nested({{"body", Layer(4, 5)}, {"head", Layer(5, 3)}}, body)),
              ElementsAre("head.weight", "head.bias"));
  // However the layer is written, in whatever order it is registered, whatever follows it.
  EXPECT_THAT(
      LastLayerParameters(Nested(
          {{"head", Layer(5, 3, "  return torch.matmul(x, self.weight.t()) + self.bias\n")},
           {"body", Layer(4, 5)}},
          "  return torch.log_softmax(self.head.forward(torch.tanh(self.body.forward(x))), 1)\n")),
      ElementsAre("head.weight", "head.bias"));
}

TEST(LastLayerTest, OfAConvolutionalHead) {
  const Network network =
      MakeNetwork(MakeModule({{"w1", {5, 2, 3, 3}}, {"b1", {5}}, {"w2", {3, 5, 1, 1}}, {"b2", {3}}},
                             "  h = torch.relu(torch.conv2d(x, self.w1, self.b1))\n"
                             "  return torch.mean(torch.conv2d(h, self.w2, self.b2), [2, 3])\n",
                             at::kDouble),
                  {2, 5, 5}, 3);
  EXPECT_THAT(LastLayerParameters(network), ElementsAre("w2", "b2"));
}

TEST(LastLayerTest, ParametersOfTheRootBelongTogetherByTheirNode) {
  EXPECT_THAT(LastLayerParameters(reference::TanhMlp(4, 5, 3)), ElementsAre("w2", "b2"));
  EXPECT_THAT(LastLayerParameters(reference::LinearNetwork(4, 3)), ElementsAre("w"));
  const char* hidden = "  h = torch.tanh(torch.matmul(x, self.w1.t()) + self.b1)\n";
  const std::vector<std::pair<std::string, std::vector<int64_t>>> parameters = {
      {"w1", {5, 4}}, {"b1", {5}}, {"w2", {3, 5}}, {"b2", {3}}};
  EXPECT_THAT(LastLayerParameters(Root(parameters, std::string(hidden) +
                                                       "  return torch.matmul(h, self.w2.t()) + "
                                                       "self.b2\n")),
              ElementsAre("w2", "b2"));
  // Without a bias the layer before it is not drawn in.
  EXPECT_THAT(
      LastLayerParameters(Root({{"w1", {5, 4}}, {"b1", {5}}, {"w2", {3, 5}}},
                               std::string(hidden) + "  return torch.matmul(h, self.w2.t())\n")),
      ElementsAre("w2"));
}

TEST(LastLayerTest, EveryOutputHasOne) {
  EXPECT_THAT(LastLayerParameters(
                  Nested({{"body", Layer(4, 5)}, {"a", Layer(5, 1)}, {"b", Layer(5, 2)}},
                         "  h = torch.tanh(self.body.forward(x))\n"
                         "  return torch.cat([self.a.forward(h), self.b.forward(h)], 1)\n")),
              ElementsAre("a.weight", "a.bias", "b.weight", "b.bias"));
}

TEST(LastLayerTest, OfARestrictedNetworkIsAmongItsParameters) {
  const Network network = reference::TanhMlp(4, 5, 3);
  EXPECT_THAT(LastLayerParameters(network.Restrict({"w1", "b1"})), ElementsAre("w1", "b1"));
}

}  // namespace
}  // namespace laplaced
