#include "server/offline/dataset_import.h"

#include <string>
#include <utility>
#include <vector>

#include "formats/npy.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
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
using ::testing::IsEmpty;
using ::testing::Pair;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

std::string Npy(const std::vector<int64_t>& shape, const std::string& bytes) {
  Array array;
  array.dtype = DType::kUint8;
  array.shape = shape;
  array.bytes = bytes;
  return *SerializeNpy(array);
}

// The same bytes as NumPy's bool.
std::string BoolNpy(const std::vector<int64_t>& shape, const std::string& bytes) {
  std::string npy = Npy(shape, bytes);
  return npy.replace(npy.find("|u1"), 3, "|b1");
}

Manifest TwoPixels() {
  Manifest manifest;
  manifest.input_shape = {2};
  manifest.accepts_uint8 = true;
  manifest.uint8_scale = 1.0 / 255;
  return manifest;
}

TEST(ImportDatasetTest, RefusesBoolAsPixelsAndTakesItAsLabels) {
  TempFolder folder;
  const DatasetStore store(folder.path(), 1 << 20);
  const std::string bits("\1\0\0\1", 4);
  const std::string pixels = folder.Write("x.npy", Npy({2, 2}, bits));
  const std::string mask = folder.Write("mask.npy", BoolNpy({2, 2}, bits));
  const std::string labels = folder.Write("y.npy", BoolNpy({2}, bits.substr(0, 2)));
  EXPECT_THAT(ImportDataset({mask, labels}, TwoPixels(), store),
              StatusIs(kInvalid, HasSubstr("mask.npy: examples are bool, expected floats or uint8: "
                                           "save them as float32 zeros and ones")));
  const auto id = ImportDataset({pixels, labels}, TwoPixels(), store);
  ASSERT_THAT(id, IsOk());
  const auto files = store.Find(*id);
  ASSERT_THAT(files, IsOk());
  const auto targets = ReadNpy(files->targets_path);
  ASSERT_THAT(targets, IsOk());
  EXPECT_EQ(targets->dtype, DType::kInt64);
  EXPECT_EQ(targets->data<int64_t>()[0], 1);
  EXPECT_EQ(targets->data<int64_t>()[1], 0);
}

TEST(ImportDatasetTest, TellsItsProgressAndEndsWithAnErrorThatComesBack) {
  // Eight rows are a batch.
  constexpr int64_t kRows = 20, kPixels = 1 << 20;
  Manifest manifest = TwoPixels();
  manifest.input_shape = {kPixels};
  TempFolder folder;
  const DatasetStore store(folder.path() + "/store", 1 << 30);
  const std::string pixels =
      folder.Write("x.npy", Npy({kRows, kPixels}, std::string(kRows * kPixels, '\1')));
  const std::string labels = folder.Write("y.npy", Npy({kRows}, std::string(kRows, '\1')));
  const DataFiles all{pixels, labels}, last{pixels, labels, kRows - 1};
  std::vector<std::pair<int64_t, int64_t>> told;
  absl::Status answer;
  const auto progress = [&](int64_t done, int64_t total) {
    told.emplace_back(done, total);
    return told.size() < 3 ? absl::OkStatus() : answer;
  };

  answer = absl::CancelledError("enough");
  EXPECT_THAT(ImportDataset(all, manifest, store, progress),
              StatusIs(absl::StatusCode::kCancelled, "enough"));
  EXPECT_THAT(told, ElementsAre(Pair(0, kRows), Pair(8, kRows), Pair(16, kRows)));
  EXPECT_THAT(NamesIn(folder.path() + "/store"), IsEmpty());
  told.clear();
  EXPECT_THAT(ImportDataset(last, manifest, store, progress),
              StatusIs(absl::StatusCode::kCancelled, "enough"))
      << "also while rows are left out";
  EXPECT_THAT(told, ElementsAre(Pair(0, 1), Pair(0, 1), Pair(0, 1)));

  answer = absl::OkStatus();
  const auto id = ImportDataset(last, manifest, store, progress);
  ASSERT_THAT(id, IsOk());
  EXPECT_EQ(store.Find(*id)->info.header.n_rows, 1);
}

}  // namespace
}  // namespace laplaced
