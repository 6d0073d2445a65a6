// Models come, change and go while clients call: nobody's request fails, and what is bad is left
// out.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/app/config.h"
#include "server/model/torch_runtime.h"
#include "server/serving/fit_service.h"
#include "tests/integration/world.h"
#include "tests/support/status_matchers.h"

namespace laplaced::integration {
namespace {

namespace client = laplace::client;
namespace fs = std::filesystem;
using test_support::IsOk;
using test_support::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

bool Eventually(const std::function<bool()>& condition) {
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > give_up) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return true;
}

class LifecycleTest : public ::testing::Test {
 protected:
  static laplace::v1::ServerConfig Polling() {
    laplace::v1::ServerConfig changes;
    changes.set_registry_poll_seconds(0.05);
    return changes;
  }

  std::string FolderOf(int64_t version) const {
    return absl::StrCat(world_.root(), "/models/mlp/", version);
  }

  // As an operator does it: a copy grows under its final name.
  void CopyVersion(int64_t version) const {
    fs::copy(FolderOf(1), FolderOf(version), fs::copy_options::recursive);
  }

  client::PredictRequest Request() const {
    client::PredictRequest request;
    request.model = "mlp";
    request.inputs = world_.test_inputs();
    return request;
  }

  static client::ModelState StateOf(const client::Client& client, int64_t version) {
    const auto model = client.GetModel("mlp", version);
    return model.ok() ? model->state : client::ModelState::kAvailable;
  }

  World world_;
};

TEST_F(LifecycleTest, VersionsAreReplacedUnderTrafficWithoutAFailedRequest) {
  world_.Start(Polling());
  const auto client = world_.Connect();
  world_.Fit(*client);

  std::atomic<bool> stop{false};
  std::atomic<int64_t> answers{0}, newest{0};
  std::vector<std::string> failures;
  std::mutex mutex;
  const auto call = [&] {
    const auto own = world_.Connect();
    while (!stop) {
      const auto answer = own->Predict(Request());
      if (answer.ok()) {
        ++answers;
        newest = answer->version;
      } else {
        std::lock_guard<std::mutex> lock(mutex);
        failures.push_back(std::string(answer.status().message()));
      }
    }
  };
  std::vector<std::thread> callers;
  for (int i = 0; i < 3; ++i) callers.emplace_back(call);

  CopyVersion(2);
  EXPECT_TRUE(Eventually([&] { return newest == 2; }));
  EXPECT_TRUE(Eventually([&] { return StateOf(*client, 1) == client::ModelState::kAvailable; }));

  // Half a copy.
  fs::create_directories(FolderOf(3));
  fs::copy_file(FolderOf(1) + "/model.json", FolderOf(3) + "/model.json");
  std::ofstream(FolderOf(3) + "/model.pt") << "PK\x03\x04 and no more";
  EXPECT_TRUE(Eventually([&] { return StateOf(*client, 3) == client::ModelState::kFailed; }));
  const int64_t before = answers;
  EXPECT_TRUE(Eventually([&] { return answers > before + 20; }));

  CopyVersion(4);
  EXPECT_TRUE(Eventually([&] { return newest == 4; }));
  EXPECT_TRUE(Eventually([&] { return StateOf(*client, 2) == client::ModelState::kAvailable; }));
  EXPECT_TRUE(Eventually([&] { return answers > 50; }));
  stop = true;
  for (std::thread& caller : callers) caller.join();
  EXPECT_THAT(failures, IsEmpty());
}

TEST_F(LifecycleTest, ALatestVersionThatIsDamagedAtStartIsReplacedByTheOneBelow) {
  world_.Start();
  world_.Fit(*world_.Connect());
  CopyVersion(2);
  fs::resize_file(FolderOf(2) + "/model.pt", 1000);
  world_.Start(Polling());
  const auto client = world_.Connect();
  auto answer = client->Predict(Request());
  ASSERT_THAT(answer, IsOk());
  EXPECT_EQ(answer->version, 1);
  EXPECT_EQ(StateOf(*client, 2), client::ModelState::kFailed);
  fs::copy_file(FolderOf(1) + "/model.pt", FolderOf(2) + "/model.pt",
                fs::copy_options::overwrite_existing);
  EXPECT_TRUE(Eventually([&] {
    const auto later = client->Predict(Request());
    EXPECT_THAT(later, IsOk());
    return later.ok() && later->version == 2;
  }));
}

TEST_F(LifecycleTest, APosteriorBelongsToTheVersionThatItWasCopiedTo) {
  world_.Start();
  const std::string fitted = world_.Fit(*world_.Connect());
  CopyVersion(2);
  world_.Start();
  const auto client = world_.Connect();
  const auto posterior = client->GetPosterior("mlp");
  ASSERT_THAT(posterior, IsOk());
  EXPECT_EQ(posterior->id, fitted);
  EXPECT_EQ(posterior->version, 2);
  Array more = world_.train_inputs();
  more.bytes[3] ^= 1;
  const auto data = client->EnsureDataset(more, world_.train_targets());
  ASSERT_THAT(data, IsOk());
  client::UpdateRequest update;
  update.model = "mlp";
  update.dataset_id = data->id;
  const auto updated = client->Update(update);
  ASSERT_THAT(updated, IsOk());
  EXPECT_TRUE(fs::exists(FolderOf(2) + "/posteriors/" + *updated));
  EXPECT_FALSE(fs::exists(FolderOf(1) + "/posteriors/" + *updated));
  EXPECT_EQ(client->Predict(Request())->posterior_id, *updated);
}

TEST_F(LifecycleTest, UpdatesAtTheSameTimeLoseNoExamples) {
  laplace::v1::ServerConfig changes;
  changes.set_max_concurrent_fits(2);
  world_.Start(changes);
  const auto client = world_.Connect();
  world_.Fit(*client);
  client::UpdateRequest update;
  update.model = "mlp";
  std::vector<std::string> data, operations;
  Array more = world_.train_inputs();
  for (int i = 0; i < 2; ++i) {
    more.bytes[3] ^= 1 << i;
    const auto uploaded = client->EnsureDataset(more, world_.train_targets());
    ASSERT_THAT(uploaded, IsOk());
    data.push_back(uploaded->id);
  }
  for (const std::string& id : data) {
    update.dataset_id = id;
    const auto started = client->StartUpdate(update);
    ASSERT_THAT(started, IsOk());
    operations.push_back(started->id);
  }
  std::vector<std::string> succeeded, aborted;
  for (size_t i = 0; i < operations.size(); ++i) {
    ASSERT_TRUE(Eventually([&] { return client->GetOperation(operations[i])->finished(); }));
    const auto ended = client->GetOperation(operations[i]);
    ASSERT_THAT(ended, IsOk());
    if (ended->error_code == absl::StatusCode::kOk) {
      succeeded.push_back(data[i]);
    } else {
      EXPECT_EQ(ended->error_code, absl::StatusCode::kAborted);
      EXPECT_THAT(ended->error_message, AllOf(HasSubstr("made and saved"), HasSubstr("meanwhile")));
      aborted.push_back(data[i]);
    }
  }
  const auto active = client->GetPosterior("mlp");
  ASSERT_THAT(active, IsOk());
  EXPECT_THAT(active->updated_dataset_ids, ::testing::UnorderedElementsAreArray(succeeded));
  // Again, to the posterior that took the place.
  for (const std::string& id : aborted) {
    update.dataset_id = id;
    EXPECT_THAT(client->Update(update), IsOk());
  }
  EXPECT_THAT(client->GetPosterior("mlp")->updated_dataset_ids,
              ::testing::UnorderedElementsAreArray(data));
}

TEST_F(LifecycleTest, AFitThatFindsNoRoomReadsNoData) {
  world_.Start();
  const auto client = world_.Connect();
  const client::FitRequest fit = world_.FitRequest(*client);
  const auto first = client->StartFit(fit);
  ASSERT_THAT(first, IsOk());
  client::FitRequest without_data = fit;
  without_data.train_dataset_id = "sha256-" + std::string(64, '0');
  const auto second = client->StartFit(without_data);
  // Unless the first was very quick.
  if (!client->GetOperation(first->id)->finished()) {
    EXPECT_THAT(second, StatusIs(absl::StatusCode::kResourceExhausted));
  }
}

TEST_F(LifecycleTest, AVersionThatIsNotThereHasNotFailed) {
  world_.Start();
  const auto client = world_.Connect();
  EXPECT_THAT(client->LoadModel("mlp", 7), StatusIs(absl::StatusCode::kNotFound, HasSubstr("7")));
  CopyVersion(7);
  const auto model = client->GetModel("mlp", 7);
  ASSERT_THAT(model, IsOk());
  EXPECT_EQ(model->state, client::ModelState::kAvailable);
  EXPECT_THAT(client->LoadModel("mlp", 7), IsOk());
}

TEST_F(LifecycleTest, MemoryIsCheckedBeforeAModelIsRead) {
  world_.Start();
  {
    const auto client = world_.Connect();
    world_.Fit(*client);
    CopyVersion(2);
  }
  const auto bytes = world_.Connect()->GetModel("mlp", 1);
  ASSERT_THAT(bytes, IsOk());
  ASSERT_GT(bytes->memory_bytes, static_cast<int64_t>(fs::file_size(FolderOf(1) + "/model.pt")));

  laplace::v1::ServerConfig changes;
  changes.set_load("mlp/1");
  changes.set_max_model_bytes(bytes->memory_bytes * 3 / 2);
  world_.Start(changes);
  const auto client = world_.Connect();
  fs::resize_file(FolderOf(2) + "/model.pt", bytes->memory_bytes);  // unreadable, if it were read
  EXPECT_THAT(client->LoadModel("mlp", 2),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("max_model_bytes"), HasSubstr("mlp/1"))));
  EXPECT_THAT(client->Predict(Request()), IsOk());
  ASSERT_THAT(client->UnloadModel("mlp", 1), IsOk());
  EXPECT_THAT(client->LoadModel("mlp", 1), IsOk());

  changes.set_max_model_bytes(bytes->memory_bytes / 2);
  world_.Start(changes);
  EXPECT_EQ(StateOf(*world_.Connect(), 1), client::ModelState::kFailed);
}

TEST_F(LifecycleTest, UploadsStayWithinTheirQuota) {
  laplace::v1::ServerConfig changes;
  changes.set_max_datasets_bytes(static_cast<int64_t>(world_.train_inputs().bytes.size() +
                                                      world_.train_targets().bytes.size() + 1000));
  world_.Start(changes);
  const auto client = world_.Connect();
  ASSERT_THAT(client->EnsureDataset(world_.train_inputs(), world_.train_targets()), IsOk());
  Array other = world_.train_inputs();
  other.bytes[3] ^= 1;
  EXPECT_THAT(client->EnsureDataset(other, world_.train_targets()),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("max_datasets_bytes")));
  // What is there is no upload.
  EXPECT_THAT(client->EnsureDataset(world_.train_inputs(), world_.train_targets()), IsOk());
}

TEST_F(LifecycleTest, AReadOnlyServerTakesUpWhatAnotherHasFittedAndActivated) {
  world_.Start();
  const auto writer = world_.Connect();
  const std::string first = world_.Fit(*writer);

  laplace::v1::ServerConfig config = DefaultConfig();
  config.set_registry(world_.root());
  config.set_listen("127.0.0.1:0");
  config.set_http_listen("off");
  config.set_read_only(true);
  config.set_registry_poll_seconds(0.05);
  ServerBackend backend;
  backend.make_model_host = MakeModelHost;
  backend.make_fit_service = MakeFitService;
  backend.on_compute_thread = InitTorchThread;
  const auto replica = Server::Start(config, backend);
  ASSERT_THAT(replica, IsOk());
  const auto reader = World::Connect((*replica)->address());
  auto answer = reader->Predict(Request());
  ASSERT_THAT(answer, IsOk());
  EXPECT_EQ(answer->posterior_id, first);

  const std::string second = world_.Fit(*writer, /*seed=*/7);
  ASSERT_NE(first, second);
  EXPECT_TRUE(Eventually([&] {
    const auto later = reader->Predict(Request());
    EXPECT_THAT(later, IsOk());
    return later.ok() && later->posterior_id == second;
  }));
  const auto theirs = reader->Predict(Request()), ours = writer->Predict(Request());
  ASSERT_THAT(theirs, IsOk());
  ASSERT_THAT(ours, IsOk());
  EXPECT_EQ(theirs->mean, ours->mean);

  // One that is damaged changes nothing.
  std::ofstream(FolderOf(1) + "/ACTIVE") << "p-20200101t000000.000z-000000\n";
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  answer = reader->Predict(Request());
  ASSERT_THAT(answer, IsOk());
  EXPECT_EQ(answer->posterior_id, second);
}

}  // namespace
}  // namespace laplaced::integration
