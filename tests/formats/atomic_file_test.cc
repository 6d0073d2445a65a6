#include "formats/atomic_file.h"

#include <sys/stat.h>

#include <set>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using ::laplaced::test_support::IsOk;
using ::laplaced::test_support::NamesIn;
using ::laplaced::test_support::ReadFileBytes;
using ::laplaced::test_support::StatusIs;
using ::laplaced::test_support::TempFolder;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(AtomicFileTest, NewFileRefusesToReplace) {
  TempFolder folder;
  const std::string path = folder.File("a");
  ASSERT_THAT(WriteNewFile(path, {"one", "", "two"}), IsOk());
  EXPECT_EQ(ReadFileBytes(path), "onetwo");
  EXPECT_THAT(WriteNewFile(path, {"three"}), StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_EQ(ReadFileBytes(path), "onetwo");
}

TEST(AtomicFileTest, ReplaceLeavesOnlyTheNewContent) {
  TempFolder folder;
  const std::string path = folder.File("a");
  ASSERT_THAT(ReplaceFile(path, {"a long first content"}), IsOk());
  ASSERT_THAT(ReplaceFile(path, {"short"}), IsOk());
  EXPECT_EQ(ReadFileBytes(path), "short");
  EXPECT_THAT(NamesIn(folder.path()), ElementsAre("a"));
}

TEST(AtomicFileTest, FailedReplaceLeavesNothingBehind) {
  TempFolder folder;
  ASSERT_THAT(MakeFolders(folder.File("taken/by/folders")), IsOk());
  EXPECT_FALSE(ReplaceFile(folder.File("taken"), {"x"}).ok());
  EXPECT_THAT(NamesIn(folder.path()), ElementsAre("taken"));
  EXPECT_THAT(ReplaceFile(folder.File("none/a"), {"x"}), StatusIs(absl::StatusCode::kNotFound));
}

TEST(AtomicFileTest, MakesNestedFoldersAndAcceptsThoseThatExist) {
  TempFolder folder;
  EXPECT_THAT(MakeFolders(folder.File("a/b/c")), IsOk());
  EXPECT_THAT(MakeFolders(folder.File("a/b/c")), IsOk());
  EXPECT_TRUE(std::filesystem::is_directory(folder.File("a/b/c")));
  const std::string file = folder.Write("file", "");
  EXPECT_FALSE(MakeFolders(file).ok());
  EXPECT_FALSE(MakeFolders(file + "/below").ok());
}

TEST(AtomicFileTest, RenameFolderRefusesEvenAnEmptyTarget) {
  TempFolder folder;
  ASSERT_THAT(MakeFolders(folder.File("from")), IsOk());
  folder.Write("from/a", "x");
  ASSERT_THAT(MakeFolders(folder.File("to")), IsOk());
  EXPECT_THAT(RenameFolder(folder.File("from"), folder.File("to")),
              StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_TRUE(NamesIn(folder.File("to")).empty());
  EXPECT_THAT(RenameFolder(folder.File("from"), folder.File("other")), IsOk());
  EXPECT_EQ(ReadFileBytes(folder.File("other/a")), "x");
}

TEST(AtomicFileTest, RemovesOnlyTemporaries) {
  TempFolder folder;
  ASSERT_THAT(MakeFolders(folder.File(".tmp-0123/deep")), IsOk());
  folder.Write(".tmp-file", "x");
  folder.Write(".hidden", "x");
  folder.Write("tmp-visible", "x");
  ASSERT_THAT(RemoveTemporaries(folder.path()), IsOk());
  EXPECT_THAT(NamesIn(folder.path()), ElementsAre(".hidden", "tmp-visible"));
  EXPECT_THAT(RemoveTemporaries(folder.File("none")), IsOk());
}

TEST(AtomicFileTest, TemporaryPathsDiffer) {
  std::set<std::string> paths;
  for (int i = 0; i < 1000; ++i) paths.insert(TemporaryPath("folder"));
  EXPECT_EQ(paths.size(), 1000u);
  EXPECT_THAT(*paths.begin(), ::testing::StartsWith("folder/.tmp-"));
}

TEST(AtomicFileTest, FindsParents) {
  EXPECT_EQ(ParentFolder("/a/b"), "/a");
  EXPECT_EQ(ParentFolder("/a"), "/");
  EXPECT_EQ(ParentFolder("a"), ".");
}

TEST(FileHandleTest, ReadsUpToTheLimit) {
  TempFolder folder;
  const std::string path = folder.Write("a", std::string("12\0 4", 5));
  EXPECT_EQ(*ReadWholeFile(path, 5), std::string("12\0 4", 5));
  EXPECT_THAT(ReadWholeFile(path, 4), StatusIs(absl::StatusCode::kInvalidArgument,
                                               HasSubstr("5 bytes, expected at most 4")));
  EXPECT_THAT(ReadWholeFile(folder.File("none"), 5), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(ReadWholeFile(path + "/below", 5), StatusIs(absl::StatusCode::kNotFound));
}

TEST(FileHandleTest, RefusesWhatIsNotARegularFileWithoutBlocking) {
  TempFolder folder;
  ASSERT_EQ(mkfifo(folder.File("pipe").c_str(), 0600), 0);
  EXPECT_THAT(ReadWholeFile(folder.File("pipe"), 5),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not a regular file")));
  EXPECT_THAT(ReadWholeFile(folder.path(), 5), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(ReadWholeFile("/dev/zero", 5), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(FileHandleTest, ListsFoldersSorted) {
  TempFolder folder;
  for (const char* name : {"b", ".a", "a"}) folder.Write(name, "");
  EXPECT_THAT(*ListFolder(folder.path()), ElementsAre(".a", "a", "b"));
  EXPECT_THAT(*ListFolder(folder.File("none")), ElementsAre());
  EXPECT_FALSE(ListFolder(folder.File("a")).ok());
}

}  // namespace
}  // namespace laplaced
