// laplace-fit and the server as several processes: the same result as one, lost and hanging ranks,
// going on from a checkpoint.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <torch/script.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/npy.h"
#include "server/offline/offline_fit.h"
#include "server/offline/offline_newton.h"
#include "server/registry/posterior_artifact.h"
#include "server/registry/repository.h"
#include "tests/integration/world.h"
#include "tests/reference/networks.h"
#include "tests/support/process.h"
#include "tests/support/status_matchers.h"

namespace laplaced::integration {
namespace {

using test_support::IsOk;
using test_support::NamesIn;
using test_support::Process;
using test_support::StatusIs;
using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// One that nobody listened on a moment ago.
int FreePort() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  bind(fd, reinterpret_cast<sockaddr*>(&address), size);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  close(fd);
  return ntohs(address.sin_port);
}

// Until somebody listens there.
void AwaitListener(int port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  for (int i = 0; i < 6000; ++i) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    const bool listens = connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
    close(fd);
    if (listens) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  FAIL() << "nobody listens on port " << port;
}

class DistributedFitTest : public ::testing::Test {
 protected:
  DistributedFitTest() {
    EXPECT_THAT(WriteNpy(File("x.npy"), world_.train_inputs()), IsOk());
    EXPECT_THAT(WriteNpy(File("y.npy"), world_.train_targets()), IsOk());
  }

  std::string File(const std::string& name) const { return world_.root() + "/" + name; }

  // The ranks of one program, started as a launcher does.
  std::vector<std::unique_ptr<Process>> StartRanks(int size,
                                                   const std::vector<std::string>& arguments) {
    return StartRanks(std::vector<std::vector<std::string>>(size, arguments));
  }

  // Each with arguments of its own.
  std::vector<std::unique_ptr<Process>> StartRanks(
      const std::vector<std::vector<std::string>>& arguments) {
    const auto size = static_cast<int>(arguments.size());
    const std::string port = absl::StrCat(FreePort());
    std::vector<std::unique_ptr<Process>> ranks;
    ++started_;
    for (int r = 0; r < size; ++r) {
      std::map<std::string, std::string> environment = {{"OMP_WAIT_POLICY", "PASSIVE"}};
      if (size > 1) {
        environment.insert({{"RANK", absl::StrCat(r)},
                            {"WORLD_SIZE", absl::StrCat(size)},
                            {"LOCAL_WORLD_SIZE", absl::StrCat(size)},
                            {"MASTER_ADDR", "127.0.0.1"},
                            {"MASTER_PORT", port},
                            {"GLOO_SOCKET_IFNAME", "lo"}});
      }
      ranks.push_back(std::make_unique<Process>(File(absl::StrCat("log-", started_, "-", r)),
                                                arguments[r], environment));
    }
    return ranks;
  }

  std::vector<std::string> FitArguments(const std::vector<std::string>& more) const {
    std::vector<std::string> arguments = {LAPLACE_FIT_BINARY,
                                          "mlp",
                                          "--registry",
                                          world_.root(),
                                          "--train",
                                          File("x.npy") + "," + File("y.npy"),
                                          "--train-rows",
                                          ":260",
                                          "--validation",
                                          File("x.npy") + "," + File("y.npy"),
                                          "--validation-rows",
                                          "260:",
                                          "--b1",
                                          "100",
                                          "--b2",
                                          "150"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }

  std::vector<std::unique_ptr<Process>> StartFit(int size, const std::vector<std::string>& more) {
    return StartRanks(size, FitArguments(more));
  }

  // A fit whose search for directions goes on for thousands of products.
  static std::vector<std::string> Long(std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {
        "--rank",         "40",   "--tolerance",          "1e-15",
        "--max-products", "1500", "--checkpoint-seconds", "0.001"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }

  PosteriorRecord Record(const std::string& id) {
    auto record = ReadPosteriorRecord(world_.PosteriorFolder(id));
    EXPECT_THAT(record, IsOk());
    return record.ok() ? *record : PosteriorRecord();
  }

  bool HasCheckpoint() const {
    return std::filesystem::exists(File("checkpoints/mlp-1/lanczos-0.json"));
  }
  void AwaitCheckpoint() {
    for (int i = 0; i < 6000 && !HasCheckpoint(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    ASSERT_TRUE(HasCheckpoint());
  }
  std::vector<std::string> Posteriors() const {
    return *Repository::OpenReadOnly(world_.root())->ListPosteriors({"mlp", 1});
  }

  World world_;
  int started_ = 0;
};

void ExpectNear(const std::vector<double>& a, const std::vector<double>& b, double relative) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], relative * b[i]) << i;
}

TEST_F(DistributedFitTest, OneTwoAndFourRanksAgreeAndWriteOnce) {
  PosteriorRecord alone;
  for (const int size : {1, 2, 4}) {
    auto ranks = StartFit(size, {"--rank", "8"});
    for (auto& rank : ranks) ASSERT_EQ(rank->Wait(), 0) << rank->Log();
    const std::string id = ranks[0]->Output();
    for (int r = 1; r < size; ++r) EXPECT_EQ(ranks[r]->Output(), "") << "rank 0 speaks for all";
    const PosteriorRecord record = Record(id);
    EXPECT_EQ(*Repository::OpenReadOnly(world_.root())->ActivePosterior({"mlp", 1}), id);
    EXPECT_EQ(record.n_data, 300);  // of the manifest
    EXPECT_THAT(ranks[0]->Log(),
                AllOf(HasSubstr(record.train_dataset_id), HasSubstr(record.validation_dataset_id)));
    if (size == 1) {
      alone = record;
      continue;
    }
    ExpectNear(record.eigenvalues, alone.eigenvalues, 1e-4);
    ExpectNear(record.biased_eigenvalues, alone.biased_eigenvalues, 1e-4);
    ExpectNear(record.standard_errors, alone.standard_errors, 1e-3);
    EXPECT_EQ(record.prior_precision, alone.prior_precision);
    EXPECT_EQ(record.train_dataset_id, alone.train_dataset_id);
    EXPECT_EQ(record.features.count, alone.features.count);
    ASSERT_EQ(record.ood_thresholds.size(), alone.ood_thresholds.size());
    for (size_t i = 0; i < alone.ood_thresholds.size(); ++i) {
      EXPECT_EQ(record.ood_thresholds[i].score, alone.ood_thresholds[i].score);
      const double expected = alone.ood_thresholds[i].threshold;
      EXPECT_NEAR(record.ood_thresholds[i].threshold, expected, 1e-3 * (1 + std::abs(expected)))
          << alone.ood_thresholds[i].score;
    }
  }
  EXPECT_EQ(Posteriors().size(), 3u);
  EXPECT_FALSE(std::filesystem::exists(File("checkpoints/mlp-1")));
}

TEST_F(DistributedFitTest, ARankThatDiesEndsTheFitAndResumeGoesOnFromTheCheckpoint) {
  auto through = StartFit(2, Long({"--keep-inactive"}));
  for (auto& rank : through) ASSERT_EQ(rank->Wait(), 0) << rank->Log();
  const PosteriorRecord expected = Record(through[0]->Output());

  // 52 vectors of 26 doubles: as many as by default.
  auto ranks = StartFit(2, Long({"--rank-timeout", "600", "--memory-limit", "10816"}));
  AwaitCheckpoint();
  ranks[1]->Signal(SIGKILL);
  EXPECT_EQ(ranks[0]->Wait(), 1) << "it ends by itself, long before the timeout";
  EXPECT_THAT(ranks[0]->Log(), HasSubstr("rank 0 of 2 lost the others"));
  EXPECT_EQ(Posteriors().size(), 1u) << "nothing half-done";

  auto resumed = StartFit(2, Long({"--resume", "--memory-limit", "20000"}));
  for (auto& rank : resumed) ASSERT_EQ(rank->Wait(), 0) << rank->Log();
  EXPECT_THAT(resumed[0]->Log(), HasSubstr("going on after"));
  const PosteriorRecord record = Record(resumed[0]->Output());
  ExpectNear(record.eigenvalues, expected.eigenvalues, 1e-4);
  EXPECT_EQ(record.curvature_products, expected.curvature_products);
  EXPECT_FALSE(std::filesystem::exists(File("checkpoints/mlp-1")));
}

TEST_F(DistributedFitTest, ARankThatHangsEndsTheFitAfterTheTimeout) {
  auto ranks = StartFit(3, Long({"--rank-timeout", "2"}));
  AwaitCheckpoint();
  ranks[2]->Signal(SIGSTOP);
  EXPECT_EQ(ranks[0]->Wait(), 1);
  EXPECT_EQ(ranks[1]->Wait(), 1);
  EXPECT_THAT(ranks[0]->Log(), HasSubstr("lost the others"));
}

TEST_F(DistributedFitTest, ARankThatIsStoppedTellsTheOthers) {
  auto ranks = StartFit(2, Long());
  AwaitCheckpoint();
  ranks[1]->Signal(SIGTERM);
  EXPECT_EQ(ranks[1]->Wait(), 1);
  EXPECT_EQ(ranks[0]->Wait(), 1);
  EXPECT_THAT(ranks[0]->Log(), HasSubstr("rank 1 gave up: the fit was cancelled"));
}

TEST_F(DistributedFitTest, RanksThatMeanAnotherFitAreRefused) {
  const auto refused = [&](const std::vector<std::string>& rank_0,
                           const std::vector<std::string>& rank_1, const std::string& why) {
    auto ranks = StartRanks({rank_0, rank_1});
    for (auto& rank : ranks) EXPECT_EQ(rank->Wait(), 1) << rank->Log();
    for (auto& rank : ranks) EXPECT_THAT(rank->Log(), AllOf(HasSubstr("rank 1: "), HasSubstr(why)));
  };
  refused(FitArguments({"--seed", "1"}), FitArguments({"--seed", "2"}),
          "options: seed is 2, but 1 on rank 0");
  refused(FitArguments({"--rank", "8"}), FitArguments({"--structure", "kfac"}),
          "rank is 0, but 8 on rank 0");

  // Another copy of the registry.
  const test_support::TempFolder copy;
  std::filesystem::copy(world_.root(), copy.path(), std::filesystem::copy_options::recursive);
  reference::MakeModule({{"w1", {6, 4}}, {"b1", {6}}, {"w2", {3, 6}}, {"b2", {3}}},
                        "  h = torch.tanh(torch.linear(x, self.w1, self.b1))\n"
                        "  return torch.linear(h, self.w2, self.b2)\n",
                        at::kFloat, 77, 0.3)
      .save(copy.path() + "/models/mlp/1/model.pt");
  std::vector<std::string> other = FitArguments({});
  std::replace(other.begin(), other.end(), world_.root(), copy.path());
  refused(FitArguments({}), other, "the checkpoint of mlp/1 in the registry is not what rank 0");
  EXPECT_THAT(Posteriors(), IsEmpty());
}

TEST_F(DistributedFitTest, NoRankEndsWellBeforeThePosteriorIsThere) {
  // No file can take its place.
  std::filesystem::create_directory(world_.ModelFolder() + "/ACTIVE");
  auto ranks = StartFit(3, {"--rank", "8"});
  for (auto& rank : ranks) EXPECT_EQ(rank->Wait(), 1) << rank->Log();
  EXPECT_THAT(ranks[0]->Log(), HasSubstr("ACTIVE"));
  EXPECT_THAT(ranks[1]->Log(), AllOf(HasSubstr("rank 0 gave up"), HasSubstr("ACTIVE")));
}

TEST_F(DistributedFitTest, AFitGoesOnWhenNobodyReadsItsLogAnyMore) {
  const std::string log = File("log");
  ASSERT_EQ(mkfifo(log.c_str(), 0600), 0);
  const auto before = signal(SIGPIPE, SIG_DFL);  // which the process inherits
  Process fit(log, FitArguments({"--rank", "8"}), {{"OMP_WAIT_POLICY", "PASSIVE"}});
  signal(SIGPIPE, before);
  const int reader = open(log.c_str(), O_RDONLY);  // once the process has opened it, too
  ASSERT_GE(reader, 0);
  close(reader);
  EXPECT_EQ(fit.Wait(), 0);
  EXPECT_EQ(Posteriors().size(), 1u);
}

TEST_F(DistributedFitTest, ARankThatDoesNotComeIsNamed) {
  std::map<std::string, std::string> environment = {{"RANK", "0"},
                                                    {"WORLD_SIZE", "2"},
                                                    {"MASTER_ADDR", "127.0.0.1"},
                                                    {"MASTER_PORT", absl::StrCat(FreePort())}};
  Process alone(File("log"),
                {LAPLACE_FIT_BINARY, "mlp", "--registry", world_.root(), "--train",
                 File("x.npy") + "," + File("y.npy"), "--join-timeout", "2"},
                environment);
  EXPECT_EQ(alone.Wait(), 1);
  EXPECT_THAT(alone.Log(), HasSubstr("rank 1 did not come within 2 s"));
}

TEST_F(DistributedFitTest, ASecondSignalEndsItAtOnceWhileItWaitsForRanks) {
  const int port = FreePort();
  Process alone(File("log"), FitArguments({"--join-timeout", "600"}),
                {{"RANK", "0"},
                 {"WORLD_SIZE", "2"},
                 {"MASTER_ADDR", "127.0.0.1"},
                 {"MASTER_PORT", absl::StrCat(port)}});
  AwaitListener(port);
  // Two of one kind could become one.
  alone.Signal(SIGTERM);
  alone.Signal(SIGINT);
  EXPECT_THAT(alone.Wait(), AnyOf(128 + SIGTERM, 128 + SIGINT)) << alone.Log();
}

TEST_F(DistributedFitTest, ASignalEndsTheImportOfFiles) {
  FitCommand fit;
  fit.registry = world_.root();
  fit.request.model = "mlp";
  fit.training = DataFiles{File("x.npy"), File("y.npy")};
  NewtonCommand newton;
  newton.registry = world_.root();
  newton.request.model = "mlp";
  newton.training = fit.training;
  const std::atomic<bool> stop{true};
  const auto stopped = StatusIs(absl::StatusCode::kCancelled,
                                "stopped while the training data were put into the registry");
  EXPECT_THAT(FitOffline(fit, OneRank(), stop), stopped);
  EXPECT_THAT(NewtonOffline(newton, stop), stopped);
  EXPECT_THAT(NamesIn(File("datasets")), IsEmpty());
}

TEST_F(DistributedFitTest, BadInputNamesTheFlagOrFile) {
  const auto log = [&](std::vector<std::string> arguments, int code) {
    arguments.insert(arguments.begin(), {LAPLACE_FIT_BINARY, "--registry", world_.root()});
    Process process(File("log"), arguments, {{"OMP_WAIT_POLICY", "PASSIVE"}});
    EXPECT_EQ(process.Wait(), code) << process.Log();
    return process.Log();
  };
  const std::string data = File("x.npy") + "," + File("y.npy");
  EXPECT_THAT(log({"mlp"}, 2), HasSubstr("--train"));
  EXPECT_THAT(log({"mlp/0", "--train", data}, 2),
              HasSubstr("MODEL: expected NAME or NAME/VERSION"));
  EXPECT_THAT(log({"mlp", "--train", "a,b,c"}, 2), HasSubstr("--train: expected an id"));
  EXPECT_THAT(log({"mlp", "--train", data, "--train-rows", "5:5"}, 2),
              HasSubstr("--train-rows: expected BEGIN:END"));
  EXPECT_THAT(log({"mlp", "--train", data, "--debiasing", "some"}, 2), HasSubstr("--debiasing"));
  EXPECT_THAT(log({"absent", "--train", data}, 1), HasSubstr("absent"));
  EXPECT_THAT(log({"mlp", "--train", File("none.npy")}, 1), HasSubstr("none.npy"));
  EXPECT_THAT(log({"mlp", "--train", data, "--train-rows", "0:301"}, 1),
              HasSubstr("rows 0:301 are not among its 300 rows"));
  EXPECT_THAT(log({"mlp", "--train", data, "--rank", "52"}, 1), HasSubstr("options.rank"));
  EXPECT_THAT(log({"mlp", "--train", data, "--structure", "kfac", "--rank", "10"}, 1),
              HasSubstr("options.rank: has no meaning with POSTERIOR_STRUCTURE_KFAC"));
  EXPECT_THAT(log({"mlp", "--train", data, "--fisher-samples", "8"}, 1),
              HasSubstr("options.fisher_samples: expected 0 but with CURVATURE_KIND_MC_FISHER"));
  EXPECT_THAT(log({"mlp", "--train", data}, 1),
              AllOf(HasSubstr("options.curvature_batch_size"), HasSubstr("the training data has")));
}

// laplaced, started twice by a launcher.
class ServerRanksTest : public DistributedFitTest {
 protected:
  void Start() {
    std::filesystem::remove(File("address"));
    ranks_ =
        StartRanks(2, {LAPLACED_SERVER_BINARY, "--registry", world_.root(), "--listen",
                       "127.0.0.1:0", "--http-listen", "off", "--address-file", File("address")});
  }
  std::string Address() {
    for (int i = 0; i < 1200; ++i) {
      std::ifstream file(File("address"));
      std::string address;
      if (std::getline(file, address) && !address.empty()) return address;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    ADD_FAILURE() << ranks_[0]->Log();
    return "";
  }
  void AwaitWorker() {
    for (int i = 0; i < 1200; ++i) {
      if (ranks_[1]->Log().find("waiting for fits") != std::string::npos) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    ADD_FAILURE() << ranks_[1]->Log();
  }
  std::vector<std::unique_ptr<Process>> ranks_;
};

TEST_F(ServerRanksTest, FitTogetherAndSurviveALostRank) {
  world_.Start();
  const PosteriorRecord alone = Record(world_.Fit(*World::Connect(world_.address())));
  world_.Stop();

  Start();
  const std::string address = Address();
  ASSERT_NE(address, "");
  const auto client = World::Connect(address);
  for (int i = 0; i < 2; ++i) {
    const PosteriorRecord together = Record(world_.Fit(*client));
    ExpectNear(together.eigenvalues, alone.eigenvalues, 1e-4);
    EXPECT_EQ(together.prior_precision, alone.prior_precision);
    EXPECT_THAT(ranks_[1]->Log(), HasSubstr("fitting"));
  }

  auto request = world_.FitRequest(*client);
  request.options.rank = 40;
  request.options.lanczos_tolerance = 1e-15;
  request.options.max_products = 1000000;
  const auto started = client->StartFit(request);
  ASSERT_THAT(started, IsOk());
  for (int i = 0; i < 6000; ++i) {
    const auto operation = client->GetOperation(started->id);
    if (operation.ok() && operation->phase == "directions") break;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  ranks_[1]->Signal(SIGKILL);
  const auto ended = client->WatchOperation(started->id);
  ASSERT_THAT(ended, IsOk());
  EXPECT_EQ(ended->state, laplace::client::OperationState::kFailed);
  EXPECT_EQ(ended->error_code, absl::StatusCode::kUnavailable);
  EXPECT_THAT(ended->error_message, HasSubstr("rank 0 of 2 lost the others"));
  // The server goes on with what it has.
  laplace::client::PredictRequest predict;
  predict.model = "mlp";
  predict.inputs = world_.test_inputs();
  EXPECT_THAT(client->Predict(predict), IsOk());
  ranks_[0]->Signal(SIGTERM);
  EXPECT_EQ(ranks_[0]->Wait(), 0) << ranks_[0]->Log();
}

TEST_F(ServerRanksTest, FitWhatOneProcessCouldNotAndReadOnlyTheirShares) {
  Start();
  const std::string address = Address();
  ASSERT_NE(address, "");
  const auto client = World::Connect(address);
  auto request = world_.FitRequest(*client);
  request.options.memory_limit_bytes = 4000;  // 14 vectors of 26 doubles, but not of 51
  const auto id = client->Fit(request);
  ASSERT_THAT(id, IsOk());
  EXPECT_EQ(Record(*id).eigenvalues.size(), 8u);

  Array labels = world_.train_targets();
  labels.data<int64_t>()[299] = 3;
  const auto wrong = client->EnsureDataset(world_.train_inputs(), labels);
  ASSERT_THAT(wrong, IsOk());
  request.train_dataset_id = wrong->id;
  const auto started = client->StartFit(request);
  ASSERT_THAT(started, IsOk()) << "rank 0 does not see the last row";
  const auto ended = client->WatchOperation(started->id);
  ASSERT_THAT(ended, IsOk());
  EXPECT_EQ(ended->state, laplace::client::OperationState::kFailed);
  EXPECT_EQ(ended->error_code, absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(ended->error_message, HasSubstr("rank 1: train_dataset_id: row 299 has label 3"));
}

TEST_F(ServerRanksTest, RanksBesideTheServerEndOnSigtermAndWhenItHasGone) {
  Start();
  ASSERT_NE(Address(), "");
  AwaitWorker();
  ranks_[1]->Signal(SIGTERM);
  EXPECT_EQ(ranks_[1]->Wait(), 0) << ranks_[1]->Log();
  ranks_[0]->Signal(SIGTERM);
  EXPECT_EQ(ranks_[0]->Wait(), 0);

  Start();
  ASSERT_NE(Address(), "");
  AwaitWorker();
  ranks_[0]->Signal(SIGTERM);
  EXPECT_EQ(ranks_[0]->Wait(), 0);
  EXPECT_EQ(ranks_[1]->Wait(), 1);
  EXPECT_THAT(ranks_[1]->Log(), HasSubstr("meeting point"));
}

}  // namespace
}  // namespace laplaced::integration
