#include "server/registry/repository.h"

#include <regex>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/model/field_error.h"
#include "server/registry/id_time.h"
#include "server/registry/posterior_artifact.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using ::laplaced::test_support::IsOk;
using ::laplaced::test_support::NamesIn;
using ::laplaced::test_support::StatusIs;
using ::laplaced::test_support::TempFolder;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class RepositoryTest : public ::testing::Test {
 protected:
  void MakeFolder(const std::string& path) {
    std::filesystem::create_directories(root_ + "/" + path);
  }

  void WriteFile(const std::string& path, const std::string& bytes) {
    std::filesystem::create_directories(std::filesystem::path(root_ + "/" + path).parent_path());
    test_support::WriteFileBytes(root_ + "/" + path, bytes);
  }

  Repository Open() {
    absl::StatusOr<Repository> repository = Repository::Open(root_);
    EXPECT_THAT(repository, IsOk());
    return *std::move(repository);
  }

  TempFolder temp_;
  const std::string root_ = temp_.File("registry");
};

TEST_F(RepositoryTest, CreatesItsFolders) {
  const Repository repository = Open();
  EXPECT_EQ(repository.root(), root_);
  EXPECT_THAT(NamesIn(root_), ElementsAre("datasets", "models", "operations"));
  EXPECT_EQ(repository.DatasetsFolder(), root_ + "/datasets");
  EXPECT_EQ(repository.OperationsFolder(), root_ + "/operations");
  EXPECT_THAT(*repository.ListModels(), ElementsAre());
}

TEST_F(RepositoryTest, AddsAStagedFolderAsTheHighestVersion) {
  MakeFolder("models/net/1");
  MakeFolder("models/net/9");
  const Repository repository = Open();
  const absl::StatusOr<std::string> staged = repository.StagingFolder("net");
  ASSERT_THAT(staged, IsOk());
  EXPECT_THAT(NamesIn(root_ + "/models/net"), ElementsAre("1", "9"));
  std::filesystem::create_directories(*staged);
  EXPECT_EQ(*repository.LatestVersion("net"), 9);  // it is no version yet
  const absl::StatusOr<int64_t> version = repository.AddVersion("net", *staged);
  ASSERT_THAT(version, IsOk());
  EXPECT_EQ(*version, 10);
  EXPECT_THAT(NamesIn(root_ + "/models/net"), ElementsAre("1", "10", "9"));
  EXPECT_THAT(repository.StagingFolder("none"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(repository.StagingFolder("../net"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(repository.AddVersion("net", *staged), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(RepositoryTest, AFileWithTheNameOfTheNextVersionIsNotReplaced) {
  MakeFolder("models/net/1");
  WriteFile("models/net/2", "not a folder");
  const Repository repository = Open();
  const std::string staged = *repository.StagingFolder("net");
  std::filesystem::create_directories(staged);
  EXPECT_THAT(repository.AddVersion("net", staged), Not(IsOk()));
  EXPECT_EQ(*repository.LatestVersion("net"), 1);
}

TEST_F(RepositoryTest, OpenRemovesHalfWrittenVersions) {
  WriteFile("models/net/1/model.pt", "a model");
  const std::string staged = *Open().StagingFolder("net");
  std::filesystem::create_directories(staged);
  test_support::WriteFileBytes(staged + "/model.pt", "half");
  Open();
  EXPECT_THAT(NamesIn(root_ + "/models/net"), ElementsAre("1"));
}

TEST_F(RepositoryTest, SaysWhichRootItCannotUse) {
  temp_.Write("registry", "a file");
  EXPECT_THAT(Repository::Open(root_).status().message(), HasSubstr(root_));
  EXPECT_THAT(Repository::Open("/proc/registry"), Not(IsOk()));
}

TEST_F(RepositoryTest, ListsModelsByNameThenNumber) {
  for (const char* path : {"b/2", "b/10", "b/1", "a/3", "a/0", "a/-1", "a/03", "a/x", "a/4x",
                           "a/99999999999999999999", ".hidden/1", "bad name/1"}) {
    MakeFolder(absl::StrCat("models/", path));
  }
  WriteFile("models/a/5", "a file");
  WriteFile("models/file", "a file");
  std::vector<std::string> found;
  const Repository repository = Open();
  const absl::StatusOr<std::vector<ModelVersion>> models = repository.ListModels();
  ASSERT_THAT(models, IsOk());
  for (const ModelVersion& model : *models) {
    found.push_back(absl::StrCat(model.name, "/", model.version));
  }
  EXPECT_THAT(found, ElementsAre("a/3", "b/1", "b/2", "b/10"));
  EXPECT_EQ(*repository.LatestVersion("b"), 10);
  EXPECT_EQ(*repository.ModelFolder({"b", 10}), root_ + "/models/b/10");
}

TEST_F(RepositoryTest, TellsWhatDoesNotExist) {
  MakeFolder("models/a/1");
  MakeFolder("models/empty");
  const Repository repository = Open();
  EXPECT_THAT(repository.LatestVersion("none"),
              StatusIs(absl::StatusCode::kNotFound, Not(HasSubstr(root_))));
  EXPECT_THAT(repository.LatestVersion("empty"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(repository.ModelFolder({"a", 2}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("version 2 of model 'a'")));
  EXPECT_THAT(repository.PosteriorFolder({"a", 2}, "p"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(repository.ListPosteriors({"none", 1}), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(repository.ActivePosterior({"none", 1}), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(repository.SetActivePosterior({"none", 1}, "p"),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(RepositoryTest, LetsNoNameLeaveItsFolder) {
  MakeFolder("models/a/1");
  const Repository repository = Open();
  const std::string bad_names[] = {"",
                                   ".",
                                   "..",
                                   "../a",
                                   "a/b",
                                   "/a",
                                   ".a",
                                   "a b",
                                   "a\\b",
                                   "a\n",
                                   "\xc3\xa9",
                                   std::string("a\0b", 3),
                                   std::string(129, 'a')};
  for (const std::string& name : bad_names) {
    EXPECT_THAT(repository.LatestVersion(name), StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(repository.ModelFolder({name, 1}), StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(repository.PosteriorFolder({"a", 1}, name),
                StatusIs(absl::StatusCode::kInvalidArgument, Not(HasSubstr(root_))));
    EXPECT_THAT(repository.SetActivePosterior({"a", 1}, name),
                StatusIs(absl::StatusCode::kInvalidArgument));
    const absl::Status status = ValidateName("request.id", name);
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("request.id")));
    EXPECT_EQ(FieldOf(status), "request.id");
  }
  for (const std::string& name :
       {std::string("a"), std::string("Ab-0_c.d"), std::string(128, 'z')}) {
    EXPECT_THAT(ValidateName("id", name), IsOk());
  }
  EXPECT_THAT(repository.ModelFolder({"a", 0}), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(repository.ModelFolder({"a", -1}), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(NamesIn(root_ + "/models/a/1"), ElementsAre());
}

// "net/1=/folder net/2=/folder", relative to `root`.
std::string Served(const absl::StatusOr<Repository>& repository, const std::string& root) {
  if (!repository.ok()) return std::string(repository.status().message());
  std::string served;
  const absl::StatusOr<std::vector<ModelVersion>> models = repository->ListModels();
  for (const ModelVersion& model : *models) {
    const std::string folder = *repository->ModelFolder(model);
    absl::StrAppend(&served, served.empty() ? "" : " ", model.name, "/", model.version, "=",
                    folder.substr(root.size()));
  }
  return served;
}

TEST_F(RepositoryTest, OneModelAnswersToAGivenNameHoweverItsFolderIsLaidOut) {
  struct Layout {
    std::vector<std::string> checkpoints;
    std::string served;
    int64_t latest;
  };
  const std::vector<Layout> layouts = {
      {{"model.pt"}, "net/1=", 1},
      {{"2/model.pt", "10/model.pt"}, "net/2=/2 net/10=/10", 10},
      {{"models/other/3/model.pt"}, "net/3=/models/other/3", 3},
      {{"models/net/1/model.pt", "models/other/7/model.pt"}, "net/1=/models/net/1", 1}};
  for (const Layout& layout : layouts) {
    std::filesystem::remove_all(root_);
    for (const std::string& checkpoint : layout.checkpoints) WriteFile(checkpoint, "x");
    const auto before = NamesIn(root_);
    const auto repository = Repository::OpenSingleModel(root_, "net");
    EXPECT_EQ(Served(repository, root_), layout.served);
    ASSERT_THAT(repository, IsOk());
    EXPECT_EQ(*repository->LatestVersion("net"), layout.latest);
    EXPECT_THAT(repository->LatestVersion("other"), StatusIs(absl::StatusCode::kNotFound));
    EXPECT_THAT(repository->ModelFolder({"net", 99}), StatusIs(absl::StatusCode::kNotFound));
    EXPECT_THAT(repository->ModelFolder({"other", layout.latest}),
                StatusIs(absl::StatusCode::kNotFound));
    EXPECT_EQ(NamesIn(root_), before);
  }
}

TEST_F(RepositoryTest, OneModelBringsItsPosteriors) {
  WriteFile("model.pt", "x");
  WriteFile("ACTIVE", "p-2");
  ASSERT_THAT(WritePosteriorArtifact(root_ + "/posteriors/p-2", PosteriorRecord(), {}), IsOk());
  const auto repository = Repository::OpenSingleModel(root_, "net");
  ASSERT_THAT(repository, IsOk());
  EXPECT_EQ(*repository->ActivePosterior({"net", 1}), "p-2");
  EXPECT_THAT(*repository->ListPosteriors({"net", 1}), ElementsAre("p-2"));
}

TEST_F(RepositoryTest, WhatIsNotOneModelIsRefusedWithWhatWasExpected) {
  EXPECT_THAT(Repository::OpenSingleModel(root_, "net"), StatusIs(absl::StatusCode::kNotFound));
  MakeFolder("models");
  WriteFile("weights.bin", "x");
  EXPECT_THAT(Repository::OpenSingleModel(root_, "net"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("<version>/model.pt")));
  MakeFolder("models/a/1");
  MakeFolder("models/b/1");
  EXPECT_THAT(Repository::OpenSingleModel(root_, "net"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("got a, b")));
  EXPECT_THAT(Repository::OpenSingleModel(root_, "../net"),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(RepositoryTest, ListsCompletePosteriorsNewestFirst) {
  MakeFolder("models/a/1");
  const Repository repository = Open();
  const ModelVersion model = {"a", 1};
  EXPECT_THAT(*repository.ListPosteriors(model), ElementsAre());
  for (const char* id : {"p-2", "p-1", "p-3"}) {
    const std::string folder = *repository.PosteriorFolder(model, id);
    ASSERT_THAT(WritePosteriorArtifact(folder, PosteriorRecord(), {}), IsOk());
  }
  MakeFolder("models/a/1/posteriors/p-4");
  MakeFolder("models/a/1/posteriors/.tmp-5");
  WriteFile("models/a/1/posteriors/.tmp-5/posterior.json", "{}");
  EXPECT_THAT(*repository.ListPosteriors(model), ElementsAre("p-3", "p-2", "p-1"));
}

TEST_F(RepositoryTest, RemovesOnePosteriorAndNothingElse) {
  MakeFolder("models/a/1");
  const Repository repository = Open();
  const ModelVersion model = {"a", 1};
  for (const char* id : {"p-1", "p-2"}) {
    const std::string folder = *repository.PosteriorFolder(model, id);
    ASSERT_THAT(WritePosteriorArtifact(folder, PosteriorRecord(), {}), IsOk());
  }
  ASSERT_THAT(repository.RemovePosterior(model, "p-1"), IsOk());
  EXPECT_THAT(NamesIn(root_ + "/models/a/1/posteriors"), ElementsAre("p-2"));
  EXPECT_THAT(repository.RemovePosterior(model, "p-1"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("p-1")));
  EXPECT_THAT(repository.RemovePosterior({"a", 2}, "p-2"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(repository.RemovePosterior(model, ".."),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(NamesIn(root_ + "/models/a/1/posteriors"), ElementsAre("p-2"));
}

TEST_F(RepositoryTest, RemovesADamagedPosterior) {
  const Repository repository = Open();
  WriteFile("models/a/1/posteriors/p-1/tensors.safetensors", "half of");
  ASSERT_THAT(repository.RemovePosterior({"a", 1}, "p-1"), IsOk());
  EXPECT_THAT(NamesIn(root_ + "/models/a/1/posteriors"), ElementsAre());
}

TEST_F(RepositoryTest, RemembersTheActivePosterior) {
  MakeFolder("models/a/1");
  MakeFolder("models/a/2");
  const Repository repository = Open();
  EXPECT_EQ(*repository.ActivePosterior({"a", 1}), "");
  ASSERT_THAT(repository.SetActivePosterior({"a", 1}, "p-1"), IsOk());
  ASSERT_THAT(repository.SetActivePosterior({"a", 1}, "p-2"), IsOk());
  EXPECT_EQ(*Open().ActivePosterior({"a", 1}), "p-2");
  EXPECT_EQ(*repository.ActivePosterior({"a", 2}), "");
  EXPECT_THAT(NamesIn(root_ + "/models/a/1"), ElementsAre("ACTIVE"));
}

TEST_F(RepositoryTest, ReadsAnActivePosteriorWrittenByHandAndRefusesNonsense) {
  WriteFile("models/a/1/ACTIVE", "p-1");
  const Repository repository = Open();
  EXPECT_EQ(*repository.ActivePosterior({"a", 1}), "p-1");
  for (const std::string& bytes :
       {std::string(""), std::string("../p"), std::string("a\nb\n"), std::string(5000, 'a')}) {
    WriteFile("models/a/1/ACTIVE", bytes);
    EXPECT_THAT(repository.ActivePosterior({"a", 1}), StatusIs(absl::StatusCode::kDataLoss));
  }
}

TEST_F(RepositoryTest, RemovesLeftoversOfAKilledProcessAndNothingElse) {
  for (const char* place :
       {"", "models/", "datasets/", "operations/", "models/a/1/", "models/a/1/posteriors/"}) {
    WriteFile(absl::StrCat(place, ".tmp-0123456789abcdef/deep/file"), "x");
    WriteFile(absl::StrCat(place, ".tmp-file"), "x");
    WriteFile(absl::StrCat(place, ".keep"), "x");
  }
  WriteFile("models/a/1/posteriors/p-1/posterior.json", "x");
  WriteFile("models/a/1/model.pt", "x");
  Open();
  EXPECT_THAT(NamesIn(root_), ElementsAre(".keep", "datasets", "models", "operations"));
  EXPECT_THAT(NamesIn(root_ + "/models"), ElementsAre(".keep", "a"));
  EXPECT_THAT(NamesIn(root_ + "/datasets"), ElementsAre(".keep"));
  EXPECT_THAT(NamesIn(root_ + "/operations"), ElementsAre(".keep"));
  EXPECT_THAT(NamesIn(root_ + "/models/a/1"), ElementsAre(".keep", "model.pt", "posteriors"));
  EXPECT_THAT(NamesIn(root_ + "/models/a/1/posteriors"), ElementsAre(".keep", "p-1"));
}

TEST(NewIdTest, HasTheDocumentedForm) {
  const std::regex form("op-[0-9]{8}t[0-9]{6}\\.[0-9]{3}z-[0-9a-f]{6}");
  for (int i = 0; i < 100; ++i) {
    const std::string id = NewId("op");
    EXPECT_TRUE(std::regex_match(id, form)) << id;
    EXPECT_THAT(ValidateName("id", id), IsOk());
  }
}

TEST(NewIdTest, TimesOfIdsAreReadBackAndOtherNamesHaveNone) {
  const absl::Time before = absl::FromUnixMillis(absl::ToUnixMillis(absl::Now()));
  const absl::optional<absl::Time> time = TimeOfId(NewId("p"));
  ASSERT_TRUE(time.has_value());
  EXPECT_GE(*time, before);
  EXPECT_EQ(TimeOfId("p-20260102t030405.678z-1a2b3c"), absl::FromUnixMillis(1767323045678));
  for (const char* other : {"", "p-1", "p-20260102t030405z-1a2b3c", "p-20261302t030405.678z-1a2b3c",
                            "a-b-c", "p-20260102t030405.678z", "p-20260102t030405.678z-1-2"}) {
    EXPECT_FALSE(TimeOfId(other).has_value()) << other;
  }
}

TEST_F(RepositoryTest, NewPosteriorsFollowThoseOfAClockThatWasAhead) {
  const absl::Time ahead = absl::Now() + absl::Hours(24 * 5);
  const std::string id = absl::StrCat(
      "p-", absl::FormatTime("%Y%m%dt%H%M%E3Sz", ahead, absl::UTCTimeZone()), "-ffffff");
  WriteFile(absl::StrCat("models/a/1/posteriors/", id, "/posterior.json"), "x");
  EXPECT_LT(NewId("p"), id);
  Open();
  EXPECT_GT(NewId("p"), id);
}

TEST_F(RepositoryTest, ALinkThatLeadsNowhereHidesNoModel) {
  WriteFile("models/a/1/model.pt", "x");
  const Repository repository = Open();
  std::filesystem::create_symlink("loop", root_ + "/models/loop");
  std::filesystem::create_symlink("nowhere", root_ + "/models/a/2");
  const auto models = repository.ListModels();
  ASSERT_THAT(models, IsOk());
  ASSERT_EQ(models->size(), 1u);
  EXPECT_EQ(models->front().name, "a");
}

TEST(NewIdTest, SortsAndIsUniqueAlsoWithinAMillisecondAndAcrossThreads) {
  std::vector<std::vector<std::string>> ids(4);
  std::vector<std::thread> threads;
  for (auto& mine : ids) {
    threads.emplace_back([&mine] {
      for (int i = 0; i < 2000; ++i) mine.push_back(NewId("p"));
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::set<std::string> times;  // without the random part
  for (const auto& mine : ids) {
    EXPECT_TRUE(std::is_sorted(mine.begin(), mine.end()));
    for (const std::string& id : mine) times.insert(id.substr(0, id.rfind('-')));
  }
  EXPECT_EQ(times.size(), 8000u);
}

}  // namespace
}  // namespace laplaced
