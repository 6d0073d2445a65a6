#include "server/registry/checkpoint_file.h"

#include <filesystem>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/registry/repository.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using ::laplaced::test_support::IsOk;
using ::laplaced::test_support::StatusIs;
using ::testing::HasSubstr;

TEST(CheckpointFileTest, IsTheOneThatIsThere) {
  for (const char* name : {"model.pt", "model.safetensors", "model.pth", "model.th"}) {
    test_support::TempFolder folder;
    folder.Write("model.json", "{}");
    EXPECT_THAT(FindCheckpointFile(folder.path()),
                StatusIs(absl::StatusCode::kNotFound, HasSubstr("model.pt is missing")));
    folder.Write(name, "12345");
    EXPECT_EQ(*FindCheckpointFile(folder.path()), name);
    // The registry counts it and knows the folder of a single model by it.
    const auto repository = Repository::OpenSingleModel(folder.path(), "net");
    ASSERT_THAT(repository, IsOk());
    EXPECT_EQ(*repository->LatestVersion("net"), 1);
    EXPECT_EQ(*repository->BytesOf({"net", 1}, ""), 5);
  }
}

TEST(CheckpointFileTest, SeveralAreRefused) {
  test_support::TempFolder folder;
  folder.Write("model.pt", "x");
  folder.Write("model.pth", "x");
  EXPECT_THAT(FindCheckpointFile(folder.path()),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("holds model.pt and model.pth, expected one checkpoint")));
  // Still the folder of one model, whose loading says what is wrong.
  EXPECT_THAT(Repository::OpenSingleModel(folder.path(), "net"), IsOk());
}

}  // namespace
}  // namespace laplaced
