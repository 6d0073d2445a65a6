#include "server/model/network.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/script.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "server/model/self_updates.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::MakeModule;
using ::testing::HasSubstr;

absl::Status Try(const std::vector<std::pair<std::string, std::vector<int64_t>>>& parameters,
                 const std::string& body, int64_t inputs = 4, int64_t outputs = 3) {
  return Network::FromModule(MakeModule(parameters, body, at::kFloat), {inputs}, outputs).status();
}

void ExpectUnsuitable(const absl::Status& status, const std::string& text) {
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(text));
}

// A graph that holds itself would hold the parameters' accumulators of gradients, too.
TEST(NetworkTest, ProductsLeaveNoGraphBehind) {
  const struct {
    std::string update;
    bool from_itself;
  } cases[] = {{"h += torch.tanh(h)", true},
               {"h.mul_(torch.sigmoid(h))", true},
               {"for i in range(2):\n    h += torch.tanh(h)", true},
               {"g = torch.tanh(h)\n  h += torch.linear(g, self.v)", true},
               {"h += torch.linear(x, self.w)", false},
               {"torch.relu_(h)", false},
               {"h = h + torch.tanh(h)", false}};
  for (const auto& [update, from_itself] : cases) {
    const torch::jit::Module module =
        MakeModule({{"w", {3, 4}}, {"v", {3, 3}}},
                   absl::StrCat("  h = torch.linear(x, self.w)\n  ", update,
                                "\n  return torch.linear(h, self.v)\n"),
                   at::kDouble);
    EXPECT_EQ(UpdatesFromItself(module), from_itself) << update;
    const auto network = Network::FromModule(module, {4}, 3);
    ASSERT_TRUE(network.ok()) << network.status();
    const at::Tensor x = network->TrialInputs(5);
    const at::Tensor v = at::ones({network->n_parameters()}, at::kDouble);
    for (int i = 0; i < 2; ++i) network->ForwardAndJvp(x, v);
    for (const Parameter& p : network->parameters()) {
      EXPECT_EQ(torch::autograd::impl::try_get_grad_accumulator(p.value), nullptr)
          << update << ", " << p.name;
    }
  }
}

TEST(NetworkTest, RefusesWhatLaplaceCannotUse) {
  ExpectUnsuitable(Try({}, "  return x[:, 0:3]\n"), "no parameters");
  ExpectUnsuitable(Try({{"w", {3, 4}}}, "  return x[:, 0:3]\n"), "do not depend on the parameters");
  ExpectUnsuitable(
      Try({{"w", {3, 4}}}, "  return torch.dropout(torch.linear(x, self.w), 0.5, True)\n"),
      "dropout");
  ExpectUnsuitable(
      Try({{"w", {3, 4}}},
          "  y = torch.linear(x, self.w)\n"
          "  return torch.batch_norm(y, None, None, None, None, True, 0.1, 1e-5, False)\n"),
      "batch norm in training mode");
  ExpectUnsuitable(Try({{"w", {5, 4}}}, "  return torch.linear(x, self.w)\n"),
                   "expected outputs of shape [3, 3]");
  ExpectUnsuitable(Try({{"w", {3, 7}}}, "  return torch.linear(x, self.w)\n"),
                   "cannot use this module");
  ExpectUnsuitable(Try({{"w", {3, 4}}}, "  return (torch.linear(x, self.w), x)\n"), "one tensor");
  ExpectUnsuitable(
      Try({{"w", {3, 4}}}, "  return torch.log(-torch.abs(torch.linear(x, self.w)))\n"),
      "not finite");
}

// On nine outputs two masks are often the same by chance, and more often still for a small rate.
TEST(NetworkTest, DropoutIsFoundWhateverItDraws) {
  for (const char* rate : {"0.5", "0.2"}) {
    const std::string body =
        absl::StrCat("  return torch.dropout(torch.linear(x, self.w), ", rate, ", True)\n");
    for (int i = 0; i < 300; ++i) {
      const absl::Status status = Try({{"w", {3, 4}}}, body);
      ASSERT_THAT(std::string(status.message()), HasSubstr("dropout")) << rate << ", load " << i;
    }
  }
}

TEST(NetworkTest, RefusesParametersThatAreNotFiniteOrMixed) {
  torch::jit::Module module =
      MakeModule({{"w", {3, 4}}}, "  return torch.linear(x, self.w)\n", at::kFloat);
  module.attr("w").toTensor().fill_(NAN);
  ExpectUnsuitable(Network::FromModule(module, {4}, 3).status(),
                   "parameter w holds values that are not finite");
  torch::jit::Module mixed =
      MakeModule({{"w", {3, 4}}}, "  return torch.linear(x, self.w)\n", at::kFloat);
  mixed.register_parameter("d", at::ones({2}, at::kDouble), false);
  ExpectUnsuitable(Network::FromModule(mixed, {4}, 3).status(), "mix types");
}

TEST(NetworkTest, ParametersThatTheOutputsDoNotDependOnAreLeftOut) {
  const Network network = reference::MakeNetwork(
      MakeModule(
          {{"w", {3, 4}}, {"unused", {5}}, {"detached", {4, 4}}},
          "  h = torch.linear(x, self.detached).detach()\n  return torch.linear(x + h, self.w)\n",
          at::kDouble),
      {4}, 3);
  EXPECT_EQ(network.n_parameters(), 12);
  EXPECT_THAT(network.unused_parameters(), ::testing::UnorderedElementsAre("unused", "detached"));
  const auto clone = network.Clone();
  ASSERT_TRUE(clone.ok());
  EXPECT_EQ(clone->n_parameters(), 12);
}

TEST(NetworkTest, SharedTensorsCountOnce) {
  torch::jit::Module module =
      MakeModule({{"w", {4, 4}}}, "  return torch.linear(x, self.w)\n", at::kFloat);
  module.register_parameter("v", module.attr("w").toTensor(), false);
  const auto network = Network::FromModule(module, {4}, 4);
  ASSERT_TRUE(network.ok()) << network.status();
  EXPECT_EQ(network->n_parameters(), 16);
  ASSERT_EQ(network->parameters().size(), 1u);
  EXPECT_EQ(network->parameters()[0].slots.size(), 2u);
}

TEST(NetworkTest, SurvivesSavingAndLoading) {
  const auto path = std::filesystem::temp_directory_path() / "laplaced_network_test.pt";
  torch::jit::Module module =
      MakeModule({{"w", {3, 4}}}, "  return torch.linear(x, self.w)\n", at::kFloat);
  module.save(path.string());
  const auto network = Network::Load(path.string(), "model.pt", {4}, 3);
  ASSERT_TRUE(network.ok()) << network.status();
  const at::Tensor x = reference::RandomNormal({2, 4}, 1, at::kFloat);
  EXPECT_TRUE(at::equal(network->Forward(x), at::linear(x, module.attr("w").toTensor())));
  std::filesystem::remove(path);
}

TEST(NetworkTest, DamagedFilesAreRefusedAtEveryLength) {
  const auto path = std::filesystem::temp_directory_path() / "laplaced_damaged_test.pt";
  MakeModule({{"w", {3, 4}}}, "  return torch.linear(x, self.w)\n", at::kFloat).save(path.string());
  std::ifstream in(path, std::ios::binary);
  const std::string whole((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  for (size_t length = 0; length < whole.size(); length += 1 + whole.size() / 60) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << whole.substr(0, length);
    const absl::Status status = Network::Load(path.string(), "model.pt", {4}, 3).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << length;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("model.pt: not a readable TorchScript file"))
        << length;
  }
  std::filesystem::remove(path);
}

TEST(NetworkTest, ClonesShareNothing) {
  const Network network = reference::TanhMlp(3, 4, 2);
  const auto clone = network.Clone();
  ASSERT_TRUE(clone.ok());
  const at::Tensor before = network.FlatParameters().clone();
  {
    at::NoGradGuard no_grad;
    for (const Parameter& p : clone->parameters()) at::Tensor(p.value).add_(1);
  }
  EXPECT_TRUE(at::equal(network.FlatParameters(), before));
  EXPECT_FALSE(at::equal(clone->FlatParameters(), before));
}

std::vector<std::string> Names(const Network& network) {
  std::vector<std::string> names;
  for (const Parameter& p : network.parameters()) names.push_back(p.name);
  return names;
}

TEST(NetworkTest, RestrictedNetworksMoveOnlySomeParameters) {
  const Network network = reference::TanhMlp(3, 4, 2);
  const at::Tensor x = reference::RandomNormal({5, 3}, 1), s = reference::RandomNormal({5, 2}, 2);
  const Network view = network.Restrict({"b2", "w1"});
  const Network copy = view.Clone().value();
  for (const Network& some : {view, copy}) {
    EXPECT_THAT(Names(some), ::testing::ElementsAre("w1", "b2"));
    EXPECT_THAT(some.constant_parameters(), ::testing::ElementsAre("b1", "w2"));
    EXPECT_EQ(some.n_parameters(), 14);
    EXPECT_EQ(some.parameters()[1].offset, 12);
    EXPECT_TRUE(at::equal(some.Forward(x), network.Forward(x)));
    EXPECT_TRUE(
        at::equal(some.FlatParameters(), at::cat({network.FlatParameters().narrow(0, 0, 12),
                                                  network.FlatParameters().narrow(0, 24, 2)})));
    // The same derivatives as along a direction that is zero elsewhere.
    const at::Tensor v = reference::RandomNormal({14}, 3);
    at::Tensor padded = at::zeros({26}, at::kDouble);
    padded.narrow(0, 0, 12).copy_(v.narrow(0, 0, 12));
    padded.narrow(0, 24, 2).copy_(v.narrow(0, 12, 2));
    const auto [f, jv] = some.ForwardAndJvp(x, v);
    const auto [all_f, all_jv] = network.ForwardAndJvp(x, padded);
    EXPECT_TRUE(at::allclose(jv, all_jv, 1e-12, 1e-12));
    const at::Tensor gradient = network.Vjp(all_f, s);
    EXPECT_TRUE(at::allclose(some.Vjp(f, s),
                             at::cat({gradient.narrow(0, 0, 12), gradient.narrow(0, 24, 2)}), 1e-12,
                             1e-12));
  }
  EXPECT_EQ(network.n_parameters(), 26);
  EXPECT_TRUE(view.parameters()[0].value.is_same(network.parameters()[0].value));
  EXPECT_FALSE(copy.parameters()[0].value.is_same(network.parameters()[0].value));
  // The graph of the copy does not lead to the constants.
  EXPECT_TRUE(copy.ForwardWithGraph(x).requires_grad());
  EXPECT_THAT(Names(copy.Restrict({"b2"}).Clone().value()), ::testing::ElementsAre("b2"));
}

TEST(NetworkTest, RestrictionsThatNameNothingAreErrors) {
  const Network network = reference::TanhMlp(3, 4, 2);
  EXPECT_THROW(network.Restrict({}), c10::Error);
  EXPECT_THROW(network.Restrict({"w1", "w9"}), c10::Error);
  EXPECT_THROW(network.Restrict({"w1"}).Restrict({"b1"}), c10::Error);
}

TEST(NetworkTest, SharedTensorsStayTogetherWhenRestricted) {
  torch::jit::Module module =
      MakeModule({{"w", {4, 4}}, {"u", {4, 4}}},
                 "  return torch.linear(torch.linear(x, self.w), self.u)\n", at::kDouble);
  module.register_parameter("v", module.attr("w").toTensor(), false);
  const auto network = Network::FromModule(module, {4}, 4);
  ASSERT_TRUE(network.ok()) << network.status();
  for (const char* name : {"w", "u"}) {
    const Network copy = network->Restrict({name}).Clone().value();
    EXPECT_THAT(Names(copy), ::testing::ElementsAre(name));
    EXPECT_EQ(copy.parameters()[0].slots.size(), name == std::string("w") ? 2u : 1u);
  }
}

TEST(NetworkTest, LargestResultIsCountedPerExampleAndWithoutParameters) {
  EXPECT_EQ(reference::TanhMlp(3, 400, 2).LargestResultPerExample(), 400);
  EXPECT_EQ(reference::LinearNetwork(500, 2).LargestResultPerExample(), 2);
  EXPECT_EQ(reference::ConvNet(3).LargestResultPerExample(), 3 * 6 * 6);
}

TEST(NetworkTest, PaddingRowsOfEmbeddingsAreConstantInBothModes) {
  // Index 0 is padding, and the trial inputs are full of it.
  const torch::jit::Module module =
      MakeModule({{"e", {4, 3}}, {"w", {2, 3}}},
                 "  h = torch.embedding(self.e, x.long(), 0)\n"
                 "  return torch.linear(torch.tanh(h).sum(1), self.w)\n",
                 at::kDouble);
  const auto loaded = Network::FromModule(module, {5}, 2);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  for (const Network& network : {*loaded, loaded->Clone().value()}) {
    EXPECT_THAT(network.parameters()[0].constant_rows, ::testing::ElementsAre(0));
    const at::Tensor x =
        at::tensor({0., 1., 3., 0., 2., 2., 0., 1., 1., 3.}, at::kDouble).view({2, 5});
    const at::Tensor v = reference::RandomNormal({network.n_parameters()}, 5),
                     s = reference::RandomNormal({2, 2}, 6);
    const auto [f, jv] = network.ForwardAndJvp(x, v);
    const double forward = (jv * s).sum().item<double>();
    EXPECT_NEAR(forward, (network.Vjp(f, s) * v).sum().item<double>(), 1e-12);
    at::Tensor moved = v.clone();
    moved.narrow(0, 0, 3).fill_(100);
    EXPECT_TRUE(at::equal(network.ForwardAndJvp(x, moved).second, jv));
  }
}

TEST(NetworkTest, PaddingRowsThatAreReadOtherwiseTooAreRefused) {
  const torch::jit::Module module =
      MakeModule({{"e", {4, 3}}},
                 "  h = torch.embedding(self.e, x.long(), 0)\n"
                 "  return torch.linear(torch.tanh(h).sum(1), self.e)\n",
                 at::kDouble);
  const auto loaded = Network::FromModule(module, {5}, 4);
  EXPECT_EQ(loaded.status().code(), absl::StatusCode::kFailedPrecondition) << loaded.status();
}

}  // namespace
}  // namespace laplaced
