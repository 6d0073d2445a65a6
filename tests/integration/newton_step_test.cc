// A Newton step through the real server, the command line and laplace-fit: a new version of the
// model, which is then fitted and predicts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <torch/script.h>

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "formats/npy.h"
#include "server/model/likelihood.h"
#include "tests/integration/world.h"
#include "tests/reference/networks.h"
#include "tests/support/status_matchers.h"

namespace laplaced::integration {
namespace {

namespace client = laplace::client;
using test_support::IsOk;
using test_support::NamesIn;
using test_support::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Exit code, and what it wrote to both streams.
std::pair<int, std::string> RunCommand(const std::string& command) {
  FILE* pipe = popen(("OMP_WAIT_POLICY=PASSIVE " + command + " 2>&1").c_str(), "r");
  std::string output;
  char buffer[256];
  while (size_t n = fread(buffer, 1, sizeof(buffer), pipe)) output.append(buffer, n);
  const int status = pclose(pipe);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, output};
}

// Beside the world's network one of the same form, "raw", that was never trained on its labels.
class NewtonStepTest : public ::testing::Test {
 protected:
  NewtonStepTest() {
    std::filesystem::create_directories(Raw() + "/1");
    torch::jit::Module module =
        reference::MakeModule({{"w1", {6, 4}}, {"b1", {6}}, {"w2", {3, 6}}, {"b2", {3}}},
                              "  h = torch.tanh(torch.linear(x, self.w1, self.b1))\n"
                              "  return torch.linear(h, self.w2, self.b2)\n",
                              at::kFloat, 77, 0.3);
    module.save(Raw() + "/1/model.pt");
    std::filesystem::copy_file(world_.ModelFolder() + "/model.json", Raw() + "/1/model.json");
    EXPECT_THAT(WriteNpy(File("x.npy"), world_.train_inputs()), IsOk());
    EXPECT_THAT(WriteNpy(File("y.npy"), world_.train_targets()), IsOk());
  }

  std::string File(const std::string& name) const { return world_.root() + "/" + name; }
  std::string Raw() const { return File("models/raw"); }
  std::string Data() const { return "--train " + File("x.npy") + "," + File("y.npy"); }

  // Mean loss of a version's network, as it stands on disk, on the training data.
  double Loss(int version) const {
    const Network network =
        *Network::Load(Raw() + "/" + std::to_string(version) + "/model.pt", "model.pt", {4}, 3);
    return Likelihood()
        .Loss(network.Forward(ToTensor(world_.train_inputs())), ToTensor(world_.train_targets()))
        .mean()
        .item<double>();
  }

  World world_;
};

TEST_F(NewtonStepTest, ThroughTheServerMakesAVersionThatIsFittedAndPredicts) {
  world_.Start();
  const auto connection = world_.Connect();
  ASSERT_THAT(connection->LoadModel("raw"), IsOk());
  client::NewtonRequest request;
  request.model = "raw";
  request.train_dataset_id =
      connection->EnsureDataset(world_.train_inputs(), world_.train_targets())->id;
  request.direction_batch_size = 100;
  request.curvature_batch_size = 120;
  request.held_out_size = 80;
  const auto made = connection->NewtonStep(request);
  ASSERT_THAT(made, IsOk());
  EXPECT_EQ(made->model_version, 2);
  EXPECT_EQ(made->posterior_id, "");
  EXPECT_EQ(made->description, "newton step raw/1");
  EXPECT_THAT(made->result, HasSubstr("held-out loss"));
  EXPECT_LT(Loss(2), 0.95 * Loss(1));
  EXPECT_THAT(NamesIn(Raw()), ElementsAre("1", "2"));

  ASSERT_THAT(connection->LoadModel("raw", 2), IsOk());
  client::FitRequest fit = world_.FitRequest(*connection);
  fit.model = "raw";
  ASSERT_THAT(connection->Fit(fit), IsOk());
  client::PredictRequest predict;
  predict.model = "raw";
  predict.inputs = world_.test_inputs();
  const auto answer = connection->Predict(predict);
  ASSERT_THAT(answer, IsOk());
  EXPECT_EQ(answer->version, 2);

  request.curvature_batch_size = 5000;
  EXPECT_THAT(connection->NewtonStep(request),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("distinct examples")));
  request.curvature_batch_size = 120;
  const auto stop = connection->NewtonStep(request, [](const client::Operation&) { return false; });
  EXPECT_THAT(stop, StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(NamesIn(Raw()), ElementsAre("1", "2"));
}

TEST_F(NewtonStepTest, TheCommandLineSaysWhatItMade) {
  world_.Start();
  ASSERT_THAT(world_.Connect()->LoadModel("raw"), IsOk());
  const std::string cli = std::string(LAPLACE_CLI_BINARY) + " --server " + world_.address();
  const auto step =
      RunCommand(cli + " newton-step raw " + Data() + " --b1 100 --b2 120 --held-out-size 80");
  EXPECT_EQ(step.first, 0) << step.second;
  EXPECT_THAT(step.second, HasSubstr("wrote raw/2: held-out loss"));
  const auto list = RunCommand(cli + " operations ls");
  EXPECT_THAT(list.second, HasSubstr("version 2"));
  EXPECT_LT(Loss(2), 0.95 * Loss(1));
}

TEST_F(NewtonStepTest, WithoutAServerLikewise) {
  const std::string fit = std::string(LAPLACE_FIT_BINARY) + " newton-step --registry " +
                          world_.root() + " raw " + Data();
  const auto step = RunCommand(fit + " --b1 100 --b2 120 --held-out-size 80 --variant debiased");
  EXPECT_EQ(step.first, 0) << step.second;
  EXPECT_THAT(step.second, HasSubstr("raw/2\n"));
  EXPECT_LT(Loss(2), 0.95 * Loss(1));
  const auto record =
      nlohmann::json::parse(test_support::ReadFileBytes(Raw() + "/2/newton_step.json"));
  EXPECT_LT(record["held_out"]["loss_after"], record["held_out"]["loss_before"]);

  // From version 2 now; too many examples, and flags that do not exist.
  const auto many = RunCommand(fit + " --b1 100 --b2 1200");
  EXPECT_EQ(many.first, 1);
  EXPECT_THAT(many.second, HasSubstr("options.curvature_batch_size"));
  const auto wrong = RunCommand(fit + " --rank 3");
  EXPECT_EQ(wrong.first, 2);
  EXPECT_THAT(wrong.second, HasSubstr("laplace-fit newton-step --help"));
  EXPECT_EQ(RunCommand(std::string(LAPLACE_FIT_BINARY) + " newton-step --help").first, 0);
  EXPECT_THAT(NamesIn(Raw()), ElementsAre("1", "2"));
}

}  // namespace
}  // namespace laplaced::integration
