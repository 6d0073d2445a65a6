#include "formats/array_file.h"

#include "formats/npy.h"
#include "formats/npz.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using ::laplaced::test_support::IsOk;
using ::laplaced::test_support::StatusIs;
using ::laplaced::test_support::TempFolder;
using ::testing::HasSubstr;

const std::string kIdx(
    "\x00\x00\x08\x01\x00\x00\x00\x03"
    "abc",
    11);

Array Abc() {
  Array array;
  array.dtype = DType::kUint8;
  array.shape = {3};
  array.bytes = "abc";
  return array;
}

TEST(ArrayFileTest, ChoosesTheFormatByName) {
  TempFolder folder;
  for (const char* name : {"train-images-idx3-ubyte", "a.idx", "a.idx1", "a.idx.gz", "labels.gz"}) {
    folder.Write(name, kIdx);
  }
  ASSERT_THAT(WriteNpy(folder.File("idx.npy"), Abc()), IsOk());
  for (const std::string& name : test_support::NamesIn(folder.path())) {
    const auto arrays = ReadArrayFile(folder.File(name));
    ASSERT_THAT(arrays, IsOk()) << name;
    ASSERT_EQ(arrays->size(), 1u);
    EXPECT_EQ(arrays->at(kSingleArrayKey).bytes, "abc") << name;
  }
}

TEST(ArrayFileTest, KeepsTheNamesOfAnArchive) {
  TempFolder folder;
  ASSERT_THAT(WriteNpz(folder.File("a.npz"), {{"x", Abc()}, {"y", Abc()}}), IsOk());
  const auto arrays = ReadArrayFile(folder.File("a.npz"));
  ASSERT_THAT(arrays, IsOk());
  EXPECT_EQ(arrays->count("x") + arrays->count("y"), 2u);
}

TEST(ArrayFileTest, PassesTheLimitOn) {
  TempFolder folder;
  ASSERT_THAT(WriteNpy(folder.File("a.npy"), Abc()), IsOk());
  ASSERT_THAT(WriteNpz(folder.File("a.npz"), {{"x", Abc()}}), IsOk());
  folder.Write("a.idx", kIdx);
  for (const char* name : {"a.npy", "a.npz", "a.idx"}) {
    EXPECT_THAT(ReadArrayFile(folder.File(name), 2),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("limit of 2")));
  }
}

TEST(ArrayFileTest, RefusesOtherNamesAndMissingFiles) {
  TempFolder folder;
  for (const char* name : {"a.csv", "a", "idx.d", "a.npy.gz", "a.npz.gz"}) {
    const bool is_idx = std::string(name) == "idx.d";  // contains idx, is none
    EXPECT_THAT(ReadArrayFile(folder.Write(name, "1,2,3")),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(is_idx ? "IDX" : name)));
  }
  // Only the last part of a path counts.
  std::filesystem::create_directory(folder.File("idx"));
  EXPECT_THAT(ReadArrayFile(folder.Write("idx/a.csv", "")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("unknown kind")));
  for (const char* name : {"none.npy", "none.npz", "none.idx", "none.gz"}) {
    EXPECT_THAT(ReadArrayFile(folder.File(name)), StatusIs(absl::StatusCode::kNotFound));
  }
}

}  // namespace
}  // namespace laplaced
