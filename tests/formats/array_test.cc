#include "formats/array.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace laplaced {
namespace {

using ::laplaced::test_support::IsOk;
using ::laplaced::test_support::StatusIs;
using ::testing::HasSubstr;

constexpr int64_t kMost = int64_t{1} << 62;

TEST(ArrayTest, CountsElements) {
  EXPECT_EQ(*NumElements({}), 1);
  EXPECT_EQ(*NumElements({7}), 7);
  EXPECT_EQ(*NumElements({2, 3, 5}), 30);
  EXPECT_EQ(*NumElements({2, 0, 5}), 0);
}

TEST(ArrayTest, AcceptsTheLargestCountAndRefusesMore) {
  EXPECT_EQ(*NumElements({kMost}), kMost);
  EXPECT_EQ(*NumElements({int64_t{1} << 31, int64_t{1} << 31}), kMost);
  EXPECT_THAT(NumElements({kMost + 1}), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(NumElements({int64_t{1} << 31, int64_t{1} << 31, 2}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("too large")));
  EXPECT_THAT(NumElements({INT64_MAX, INT64_MAX}), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(ArrayTest, RefusesNegativeSizesAndOverflowBesideAZero) {
  EXPECT_THAT(NumElements({3, -1}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("[3, -1]")));
  EXPECT_THAT(NumElements({0, -1}), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(NumElements({0, kMost, kMost}), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(ArrayTest, CountsBytes) {
  EXPECT_EQ(*NumBytes(DType::kFloat64, {2, 3}), 48);
  EXPECT_EQ(*NumBytes(DType::kUint8, {}), 1);
  EXPECT_EQ(*NumBytes(DType::kInt32, {0}), 0);
  EXPECT_EQ(*NumBytes(DType::kUint8, {kMost}), kMost);
  EXPECT_THAT(NumBytes(DType::kFloat32, {kMost / 2}), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(ArrayTest, NamesTypes) {
  const std::pair<DType, std::pair<const char*, int64_t>> expected[] = {
      {DType::kFloat32, {"float32", 4}}, {DType::kFloat64, {"float64", 8}},
      {DType::kUint8, {"uint8", 1}},     {DType::kInt32, {"int32", 4}},
      {DType::kInt64, {"int64", 8}},
  };
  for (const auto& [dtype, facts] : expected) {
    EXPECT_EQ(DTypeName(dtype), facts.first);
    EXPECT_EQ(ElementSize(dtype), facts.second);
    EXPECT_EQ(*DTypeFromName(facts.first), dtype);
  }
  EXPECT_THAT(DTypeFromName("float16"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("float32, float64, uint8")));
}

TEST(ArrayTest, ShowsShapes) {
  EXPECT_EQ(ShapeString({}), "[]");
  EXPECT_EQ(ShapeString({2, 28, 28}), "[2, 28, 28]");
}

TEST(ArrayTest, AllocatesZerosWithinTheLimit) {
  absl::StatusOr<Array> array = AllocateArray(DType::kFloat32, {2, 3}, 24);
  ASSERT_THAT(array, IsOk());
  EXPECT_EQ(array->bytes, std::string(24, '\0'));
  EXPECT_EQ(array->rows(), 2);
  EXPECT_THAT(AllocateArray(DType::kFloat32, {2, 3}, 23),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("24 bytes")));
  EXPECT_THAT(AllocateArray(DType::kUint8, {kMost}, INT64_MAX),
              StatusIs(absl::StatusCode::kResourceExhausted));
}

}  // namespace
}  // namespace laplaced
