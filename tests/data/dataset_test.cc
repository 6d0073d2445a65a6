#include "server/data/dataset.h"

#include <string>

#include "formats/npy.h"
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

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

class DatasetFilesTest : public ::testing::Test {
 protected:
  // Row n of [n_rows, 2] is (2 n, 2 n + 1).
  std::string Inputs(int64_t n_rows) {
    Array array{DType::kFloat32, {n_rows, 2}, std::string(static_cast<size_t>(n_rows) * 8, '\0')};
    for (int64_t i = 0; i < 2 * n_rows; ++i) array.data<float>()[i] = static_cast<float>(i);
    return Write("inputs.npy", array);
  }
  std::string Labels(int64_t n_rows) {
    Array array{DType::kInt32, {n_rows}, std::string(static_cast<size_t>(n_rows) * 4, '\0')};
    for (int64_t i = 0; i < n_rows; ++i) array.data<int32_t>()[i] = static_cast<int32_t>(10 * i);
    return Write("labels.npy", array);
  }
  std::string Write(const std::string& name, const Array& array) {
    const std::string path = folder_.File(name);
    EXPECT_THAT(WriteNpy(path, array), IsOk());
    return path;
  }

  TempFolder folder_;
};

TEST_F(DatasetFilesTest, EveryRowIsInOneShare) {
  const std::string inputs = Inputs(7), labels = Labels(7);
  for (const int64_t ranks : {1, 2, 3, 7}) {
    int64_t next = 0;
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const auto share = ReadDatasetShare(inputs, labels, rank, ranks);
      ASSERT_THAT(share, IsOk());
      EXPECT_EQ(share->first, next);
      EXPECT_EQ(share->total(), 7);
      ASSERT_EQ(share->targets.scalar_type(), at::kLong);
      for (int64_t n = 0; n < share->size(); ++n, ++next) {
        EXPECT_EQ(share->inputs[n][0].item<float>(), static_cast<float>(2 * next));
        EXPECT_EQ(share->inputs[n][1].item<float>(), static_cast<float>(2 * next + 1));
        EXPECT_EQ(share->targets[n].item<int64_t>(), 10 * next);
      }
    }
    EXPECT_EQ(next, 7);
  }
}

TEST_F(DatasetFilesTest, OneRanksShareIsTheWhole) {
  const std::string inputs = Inputs(5), labels = Labels(5);
  const auto whole = ReadDataset(inputs, labels);
  const auto share = ReadDatasetShare(inputs, labels, 0, 1);
  ASSERT_THAT(whole, IsOk());
  ASSERT_THAT(share, IsOk());
  EXPECT_TRUE(at::equal(share->inputs, whole->inputs));
  EXPECT_TRUE(at::equal(share->targets, whole->targets));
  EXPECT_EQ(share->size(), share->total());
}

TEST_F(DatasetFilesTest, FilesThatAreNoRowsAreRefused) {
  const std::string five = Inputs(5), none = Inputs(0);
  const std::string number = Write("number.npy", {DType::kFloat32, {}, std::string(4, '\0')});
  for (const std::string& inputs : {number, none}) {
    EXPECT_THAT(ReadDataset(inputs, Labels(0)), StatusIs(kInvalid));
    EXPECT_THAT(ReadDatasetShare(inputs, Labels(0), 0, 1), StatusIs(kInvalid));
  }
  EXPECT_THAT(ReadDatasetShare(five, number, 0, 1), StatusIs(kInvalid, HasSubstr("single number")));
}

TEST_F(DatasetFilesTest, AsManyTargetsAsInputs) {
  EXPECT_THAT(ReadDatasetShare(Inputs(5), Labels(4), 0, 1),
              StatusIs(kInvalid, HasSubstr("got 5 inputs and 4 targets")));
}

}  // namespace
}  // namespace laplaced
