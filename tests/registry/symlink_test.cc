// Symbolic links in a registry: reading follows them, removing does not, and what they lead to must
// be a regular file.
#include <sys/stat.h>

#include <filesystem>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/registry/posterior_artifact.h"
#include "server/registry/repository.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

namespace fs = std::filesystem;
using test_support::IsOk;
using test_support::NamesIn;
using test_support::ReadFileBytes;
using test_support::StatusIs;
using test_support::TempFolder;
using test_support::WriteFileBytes;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class SymlinkTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(Posteriors());
    WriteFileBytes(registry_.File("models/net/1/model.pt"), "checkpoint");
    outside_.Write("precious", "data");
  }

  std::string Posteriors() const { return registry_.File("models/net/1/posteriors"); }
  void ExpectOutsideUntouched() const {
    EXPECT_THAT(NamesIn(outside_.path()), ElementsAre("precious"));
    EXPECT_EQ(ReadFileBytes(outside_.File("precious")), "data");
  }

  const ModelVersion model_{"net", 1};
  TempFolder registry_;
  TempFolder outside_;
};

TEST_F(SymlinkTest, DeletingAPosteriorThatIsALinkRemovesTheLinkOnly) {
  fs::create_directory_symlink(outside_.path(), Posteriors() + "/p-1");
  const auto repository = Repository::Open(registry_.path());
  ASSERT_THAT(repository, IsOk());
  EXPECT_THAT(repository->RemovePosterior(model_, "p-1"), IsOk());
  EXPECT_THAT(NamesIn(Posteriors()), IsEmpty());
  ExpectOutsideUntouched();
}

TEST_F(SymlinkTest, DeletingAPosteriorDoesNotFollowLinksInIt) {
  fs::create_directories(Posteriors() + "/p-1");
  fs::create_directory_symlink(outside_.path(), Posteriors() + "/p-1/elsewhere");
  const auto repository = Repository::Open(registry_.path());
  ASSERT_THAT(repository, IsOk());
  EXPECT_THAT(repository->RemovePosterior(model_, "p-1"), IsOk());
  EXPECT_THAT(NamesIn(Posteriors()), IsEmpty());
  ExpectOutsideUntouched();
}

TEST_F(SymlinkTest, LeftoversThatAreLinksAreRemovedAsLinks) {
  fs::create_directory_symlink(outside_.path(), Posteriors() + "/.tmp-1");
  ASSERT_THAT(Repository::Open(registry_.path()), IsOk());
  EXPECT_THAT(NamesIn(Posteriors()), IsEmpty());
  ExpectOutsideUntouched();
}

TEST_F(SymlinkTest, ActivationReplacesALinkInsteadOfWritingThroughIt) {
  fs::create_symlink(outside_.File("precious"), registry_.File("models/net/1/ACTIVE"));
  const auto repository = Repository::Open(registry_.path());
  ASSERT_THAT(repository, IsOk());
  EXPECT_THAT(repository->SetActivePosterior(model_, "p-1"), IsOk());
  EXPECT_EQ(repository->ActivePosterior(model_).value(), "p-1");
  ExpectOutsideUntouched();
}

TEST_F(SymlinkTest, RecordsThatLeadToDevicesOrPipesAreRefusedAtOnce) {
  const std::string folder = Posteriors() + "/p-1";
  fs::create_directories(folder);
  const std::string record = folder + "/posterior.json";
  fs::create_symlink("/dev/zero", record);
  EXPECT_THAT(ReadPosteriorRecord(folder), StatusIs(absl::StatusCode::kDataLoss));
  fs::remove(record);
  ASSERT_EQ(mkfifo(outside_.File("pipe").c_str(), 0600), 0);
  fs::create_symlink(outside_.File("pipe"), record);
  EXPECT_THAT(ReadPosteriorRecord(folder), StatusIs(absl::StatusCode::kDataLoss));
  fs::remove(outside_.File("pipe"));
}

}  // namespace
}  // namespace laplaced
