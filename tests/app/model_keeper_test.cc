#include "server/app/model_keeper.h"

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/app/model_selection.h"
#include "tests/support/event.h"
#include "tests/support/fake_model_host.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using test_support::FakeModelHost;
using test_support::IsOk;
using test_support::StatusIs;
using test_support::TempFolder;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;
using Key = std::pair<std::string, int64_t>;

// Serves what is loaded, and keeps a diary.
class KeptHost : public FakeModelHost {
 public:
  absl::StatusOr<ModelInfo> Load(const std::string& name, int64_t version) override {
    ++tries[{name, version}];
    if (on_load) on_load();
    if (broken.count({name, version}) > 0) {
      failed.insert({name, version});
      return absl::FailedPreconditionError("damaged");
    }
    failed.erase({name, version});
    if (Get(name, version).ok()) return Get(name, version);
    Add(name, version, bare.count({name, version}) > 0 ? "" : "p-1");
    diary.push_back(absl::StrCat("+", name, "/", version));
    return Get(name, version);
  }
  std::vector<ModelInfo> Tried() const override {
    std::vector<ModelInfo> tried = FakeModelHost::Tried();
    for (const auto& [name, version] : failed) {
      tried.emplace_back();
      tried.back().name = name;
      tried.back().version = version;
      tried.back().state = ModelState::kFailed;
    }
    return tried;
  }
  void ForgetFailure(const std::string& name, int64_t version) override {
    failed.erase({name, version});
    diary.push_back(absl::StrCat("forget ", name, "/", version));
  }
  absl::Status Unload(const std::string& name, int64_t version) override {
    const absl::Status status = FakeModelHost::Unload(name, version);
    if (status.ok()) diary.push_back(absl::StrCat("-", name, "/", version));
    return status;
  }
  absl::StatusOr<bool> RefreshPosterior(const std::string&, int64_t) override {
    ++refreshes;
    return refresh;
  }

  std::map<Key, int> tries;
  std::set<Key> broken, bare;  // cannot be loaded; come without a posterior
  std::set<Key> failed;
  std::vector<std::string> diary;
  std::function<void()> on_load;
  int refreshes = 0;
  absl::StatusOr<bool> refresh = false;
};

class ModelKeeperTest : public ::testing::Test {
 protected:
  void AddFolder(const std::string& name, int64_t version) const {
    std::filesystem::create_directories(FolderOf(name, version));
  }
  void RemoveFolder(const std::string& name, int64_t version) const {
    std::filesystem::remove_all(FolderOf(name, version));
  }
  std::string FolderOf(const std::string& name, int64_t version) const {
    return absl::StrCat(registry_.path(), "/models/", name, "/", version);
  }
  ModelKeeper& Keep(const std::string& load) {
    auto selection = ParseModelSelection(load);
    EXPECT_THAT(selection, IsOk());
    keeper_.emplace(*std::move(selection), repository_, host_);
    EXPECT_THAT(keeper_->LoadSelected(), IsOk());
    return *keeper_;
  }
  std::vector<std::string> Diary() { return std::exchange(host_.diary, {}); }

  TempFolder registry_;
  const Repository repository_ = *Repository::Open(registry_.path());
  KeptHost host_;
  absl::optional<ModelKeeper> keeper_;
};

TEST_F(ModelKeeperTest, ANewVersionAnswersBeforeTheOldOneGoes) {
  AddFolder("net", 1);
  ModelKeeper& keeper = Keep("all");
  EXPECT_THAT(Diary(), ElementsAre("+net/1"));
  keeper.Look();
  EXPECT_THAT(Diary(), IsEmpty());
  AddFolder("net", 2);
  AddFolder("other", 7);
  keeper.Look();
  EXPECT_THAT(Diary(), ElementsAre("+net/2", "-net/1", "+other/7"));
}

TEST_F(ModelKeeperTest, AVersionThatCannotBeLoadedChangesNothingAndIsTriedAgainLater) {
  AddFolder("net", 1);
  ModelKeeper& keeper = Keep("net");
  Diary();
  AddFolder("net", 2);
  host_.broken.insert({"net", 2});
  // In the looks 1, 2, 4, 8, ..., so that a broken checkpoint costs little.
  for (int look = 1; look <= 33; ++look) keeper.Look();
  EXPECT_EQ((host_.tries[{"net", 2}]), 6);
  EXPECT_THAT(Diary(), IsEmpty());
  host_.broken.clear();
  for (int look = 0; look < 100; ++look) keeper.Look();
  EXPECT_THAT(Diary(), ElementsAre("+net/2", "-net/1"));
  EXPECT_EQ((host_.tries[{"net", 2}]), 7);
}

TEST_F(ModelKeeperTest, AVersionThatFailedIsForgottenOnceANewerOneAnswers) {
  AddFolder("net", 1);
  ModelKeeper& keeper = Keep("all");
  host_.broken = {{"net", 2}};
  AddFolder("net", 2);
  keeper.Look();
  EXPECT_THAT(Diary(), ElementsAre("+net/1"));
  AddFolder("net", 3);
  keeper.Look();
  EXPECT_THAT(Diary(), ElementsAre("+net/3", "-net/1", "forget net/2"));
  keeper.Look();
  EXPECT_THAT(Diary(), IsEmpty());
}

TEST_F(ModelKeeperTest, TheBestVersionThatWorksServesWhileTheLatestDoesNot) {
  for (int64_t version : {1, 2, 3, 4}) AddFolder("net", version);
  host_.broken = {{"net", 3}, {"net", 4}};
  ModelKeeper& keeper = Keep("net");
  EXPECT_THAT(Diary(), ElementsAre("+net/2"));
  keeper.Look();
  EXPECT_THAT(Diary(), IsEmpty());
  host_.broken.clear();
  for (int look = 0; look < 10; ++look) keeper.Look();
  EXPECT_THAT(Diary(), ElementsAre("+net/4", "-net/2", "forget net/3"));
}

TEST_F(ModelKeeperTest, AVersionWithoutPosteriorWaitsBesideTheOneThatAnswers) {
  AddFolder("net", 1);
  ModelKeeper& keeper = Keep("net");
  AddFolder("net", 2);
  host_.bare = {{"net", 2}};
  keeper.Look();
  keeper.Look();
  EXPECT_THAT(Diary(), ElementsAre("+net/1", "+net/2"));
  AddFolder("net", 3);  // 2 never answered, so nobody misses it
  host_.bare.insert({"net", 3});
  keeper.Look();
  EXPECT_THAT(Diary(), ElementsAre("+net/3", "-net/2"));
  ASSERT_THAT(host_.ActivatePosterior("net", 3, "p-2", ""), IsOk());
  keeper.Look();
  EXPECT_THAT(Diary(), ElementsAre("-net/1"));
}

TEST_F(ModelKeeperTest, AVersionThatWasAskedForHasNoSubstitute) {
  AddFolder("net", 1);
  AddFolder("net", 2);
  host_.broken = {{"net", 2}};
  Keep("net/2").Look();
  EXPECT_THAT(Diary(), IsEmpty());
}

TEST_F(ModelKeeperTest, PoliciesSayHowManyVersionsServe) {
  for (int64_t version : {1, 2, 3}) AddFolder("net", version);
  Keep("net/latest:2");
  EXPECT_THAT(Diary(), ElementsAre("+net/2", "+net/3"));
  AddFolder("net", 10);
  keeper_->Look();
  EXPECT_THAT(Diary(), ElementsAre("+net/10", "-net/2"));
  Keep("net/all");
  EXPECT_THAT(Diary(), ElementsAre("+net/1", "+net/2"));
  RemoveFolder("net", 2);
  keeper_->Look();
  EXPECT_THAT(Diary(), ElementsAre("-net/2"));
}

TEST_F(ModelKeeperTest, APinnedVersionServesBesideTheLatest) {
  for (int64_t version : {1, 2}) AddFolder("net", version);
  Keep("all,net/1");
  EXPECT_THAT(Diary(), UnorderedElementsAre("+net/1", "+net/2"));
  AddFolder("net", 3);
  keeper_->Look();
  EXPECT_THAT(Diary(), ElementsAre("+net/3", "-net/2"));
  RemoveFolder("net", 1);  // the one that was asked for goes on
  keeper_->Look();
  EXPECT_THAT(Diary(), IsEmpty());
}

TEST_F(ModelKeeperTest, TheLastVersionStaysWhateverBecomesOfTheRegistry) {
  AddFolder("net", 1);
  AddFolder("net", 2);
  ModelKeeper& keeper = Keep("all");
  RemoveFolder("net", 2);
  keeper.Look();
  EXPECT_THAT(Diary(), ElementsAre("+net/2", "+net/1", "-net/2"));
  std::filesystem::remove_all(registry_.path() + "/models");
  keeper.Look();
  EXPECT_THAT(Diary(), IsEmpty());
  EXPECT_THAT(host_.LoadedVersions("net"), ElementsAre(1));
}

TEST_F(ModelKeeperTest, WhatAnAdministratorDoesStaysDone) {
  AddFolder("net", 1);
  AddFolder("net", 2);
  ModelKeeper& keeper = Keep("net");
  ASSERT_THAT(host_.Load("net", 1), IsOk());
  ASSERT_THAT(host_.Unload("net", 2), IsOk());
  Diary();
  keeper.Look();
  EXPECT_THAT(Diary(), IsEmpty());
  AddFolder("net", 3);
  keeper.Look();
  EXPECT_THAT(Diary(), ElementsAre("+net/3"));
  EXPECT_THAT(host_.LoadedVersions("net"), ElementsAre(1, 3));
}

TEST_F(ModelKeeperTest, NoneLeavesEverythingToAdministrators) {
  AddFolder("net", 1);
  Keep("none").Look();
  EXPECT_THAT(Diary(), IsEmpty());
}

TEST_F(ModelKeeperTest, FollowsPosteriorsAndTriesWhatFailsMoreAndMoreRarely) {
  AddFolder("net", 1);
  ModelKeeper& keeper = Keep("all");
  EXPECT_EQ(host_.refreshes, 0);
  keeper.Look();
  EXPECT_EQ(host_.refreshes, 1);
  host_.refresh = absl::DataLossError("half of it");
  for (int look = 1; look <= 8; ++look) keeper.Look();
  EXPECT_EQ(host_.refreshes, 5);
  host_.refresh = true;
  for (int look = 0; look < 20; ++look) keeper.Look();
  EXPECT_GT(host_.refreshes, 10);
  EXPECT_THAT(Diary(), ElementsAre("+net/1"));
}

TEST_F(ModelKeeperTest, WhatWasLoadedByHandIsTriedMoreAndMoreRarelyToo) {
  AddFolder("net", 1);
  AddFolder("net", 2);
  ModelKeeper& keeper = Keep("net");
  host_.Add("net", 1, "p-1");
  host_.refresh = absl::DataLossError("half of it");
  for (int look = 0; look < 40; ++look) keeper.Look();
  EXPECT_LT(host_.refreshes, 20);
  // And what nobody wants any more, by whomever it was tried.
  host_.failed.insert({"net", 1});
  keeper.Look();
  EXPECT_THAT(host_.failed, IsEmpty());
}

TEST_F(ModelKeeperTest, APosteriorThatCannotBeUsedDelaysNoOther) {
  AddFolder("net", 1);
  const auto activate = [&](const std::string& id) {
    std::ofstream(FolderOf("net", 1) + "/ACTIVE") << id << "\n";
  };
  activate("p-20260101t000000.000z-000001");
  ModelKeeper& keeper = Keep("all");
  host_.refresh = absl::DataLossError("half of it");
  for (int look = 0; look < 40; ++look) keeper.Look();
  const int refreshes = host_.refreshes;
  EXPECT_LT(refreshes, 10);
  host_.refresh = true;
  keeper.Look();
  EXPECT_EQ(host_.refreshes, refreshes) << "the same one again";
  activate("p-20260101t000000.000z-000002");
  keeper.Look();
  EXPECT_EQ(host_.refreshes, refreshes + 1);
}

TEST_F(ModelKeeperTest, StopWaitsForOneLoadOnly) {
  constexpr size_t kModels = 100;
  for (size_t model = 0; model < kModels; ++model) AddFolder(absl::StrCat("net", model), 1);
  test_support::Event loading;
  host_.on_load = [&] {
    loading.Set();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  };
  keeper_.emplace(*ParseModelSelection("all"), repository_, host_);
  keeper_->Watch(0.001, nullptr);
  ASSERT_TRUE(loading.Wait());
  keeper_->Stop();
  EXPECT_LT(Diary().size(), kModels);
}

TEST_F(ModelKeeperTest, WatchesByItself) {
  AddFolder("net", 1);
  ModelKeeper& keeper = Keep("all");
  int started = 0;
  keeper.Watch(0.01, [&] { ++started; });
  AddFolder("net", 2);
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (host_.LoadedVersions("net") != std::vector<int64_t>{2} &&
         std::chrono::steady_clock::now() < give_up) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_THAT(host_.LoadedVersions("net"), ElementsAre(2));
  keeper.Stop();
  EXPECT_EQ(started, 1);
  const int tries = host_.tries[{"net", 2}];
  AddFolder("net", 3);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ((host_.tries[{"net", 3}]), 0) << tries;
}

TEST(ModelSelectionTest, NamesThatAreNotThereAreErrors) {
  const std::vector<ModelVersion> present = {{"net", 1}, {"net", 3}};
  const auto check = [&](const std::string& load) {
    return CheckPresent(*ParseModelSelection(load), present);
  };
  for (const char* load : {"all", "none", "net", "net/3", "net/latest:5", "all/all,net/1"}) {
    EXPECT_THAT(check(load), IsOk()) << load;
  }
  EXPECT_THAT(check("all,nat"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("'nat'")));
  EXPECT_THAT(check("net/2"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("'net/2'")));
}

TEST(ModelSelectionTest, OnlyPoliciesThatMeanSomethingAreRead) {
  for (const char* bad :
       {"", "net/", "net/0", "net/-1", "net/latest:0", "net/latest:", "net/latest2", "net/every",
        "all/3", "net/1/2", "net,,net", "a b", "net/latest:2x"}) {
    EXPECT_THAT(ParseModelSelection(bad),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("load: expected")))
        << bad;
  }
  EXPECT_THAT(ParseModelSelection("net/latest"), IsOk());
}

}  // namespace
}  // namespace laplaced
