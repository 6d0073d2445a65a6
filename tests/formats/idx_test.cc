#include "formats/idx.h"

#include <zlib.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/hostile_bytes.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using ::laplaced::test_support::IsOk;
using ::laplaced::test_support::ReadFileBytes;
using ::laplaced::test_support::StatusIs;
using ::laplaced::test_support::TempFolder;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

// Unsigned bytes, 2 rows of 3.
const std::string kBytes(
    "\x00\x00\x08\x02\x00\x00\x00\x02\x00\x00\x00\x03"
    "abc\xff\x00\x01",
    18);

std::string Compressed(const std::string& bytes) {
  TempFolder folder;
  gzFile file = gzopen(folder.File("x").c_str(), "wb9");
  gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size()));
  gzclose(file);
  return ReadFileBytes(folder.File("x"));
}

absl::StatusOr<Array> ReadBytes(const std::string& bytes) {
  TempFolder folder;
  return ReadIdx(folder.Write("x.idx", bytes));
}

absl::Status ReadStatus(const std::string& path) { return ReadIdx(path).status(); }

TEST(IdxTest, ReadsBytesPlainAndCompressed) {
  for (const std::string& bytes : {kBytes, Compressed(kBytes)}) {
    absl::StatusOr<Array> array = ReadBytes(bytes);
    ASSERT_THAT(array, IsOk());
    EXPECT_EQ(array->dtype, DType::kUint8);
    EXPECT_THAT(array->shape, ElementsAre(2, 3));
    EXPECT_EQ(array->bytes, std::string("abc\xff\x00\x01", 6));
  }
}

TEST(IdxTest, ReadsBigEndianIntegers) {
  absl::StatusOr<Array> array = ReadBytes(
      std::string("\x00\x00\x0c\x01\x00\x00\x00\x02\x01\x02\x03\x04\xff\xff\xff\xfe", 16));
  ASSERT_THAT(array, IsOk());
  EXPECT_EQ(array->dtype, DType::kInt32);
  EXPECT_EQ(array->data<int32_t>()[0], 0x01020304);
  EXPECT_EQ(array->data<int32_t>()[1], -2);
}

TEST(IdxTest, ReadsBigEndianFloats) {
  absl::StatusOr<Array> floats =
      ReadBytes(std::string("\x00\x00\x0d\x01\x00\x00\x00\x01\xbf\xc0\x00\x00", 12));
  ASSERT_THAT(floats, IsOk());
  EXPECT_EQ(floats->dtype, DType::kFloat32);
  EXPECT_EQ(floats->data<float>()[0], -1.5f);
  absl::StatusOr<Array> doubles = ReadBytes(
      std::string("\x00\x00\x0e\x01\x00\x00\x00\x01\xbf\xf8\x00\x00\x00\x00\x00\x00", 16));
  ASSERT_THAT(doubles, IsOk());
  EXPECT_EQ(doubles->dtype, DType::kFloat64);
  EXPECT_EQ(doubles->data<double>()[0], -1.5);
}

TEST(IdxTest, RefusesWhatIsNotIdx) {
  EXPECT_THAT(ReadBytes(""),
              StatusIs(kInvalid, HasSubstr("expected 4 bytes of IDX header, got 0")));
  EXPECT_THAT(ReadBytes("PK\x03\x04"), StatusIs(kInvalid, HasSubstr("two zero bytes")));
  EXPECT_THAT(ReadBytes(std::string("\x00\x00\x07\x01", 4)), StatusIs(kInvalid, HasSubstr("0x07")));
  EXPECT_THAT(ReadBytes(std::string("\x00\x00\x09\x01", 4)),
              StatusIs(kInvalid, HasSubstr("signed byte")));
  EXPECT_THAT(ReadBytes(std::string("\x00\x00\x0b\x01", 4)),
              StatusIs(kInvalid, HasSubstr("16-bit")));
  EXPECT_THAT(ReadBytes(std::string("\x00\x00\x08\x00\x05", 5)),
              StatusIs(kInvalid, HasSubstr("at least one dimension")));
  EXPECT_THAT(ReadIdx("/nonexistent/x.idx"), StatusIs(absl::StatusCode::kNotFound));
}

TEST(IdxTest, RefusesMoreDataThanAnnounced) {
  for (const std::string& bytes : {kBytes + "x", Compressed(kBytes + "x")}) {
    EXPECT_THAT(ReadBytes(bytes), StatusIs(kInvalid, HasSubstr("more data than")));
  }
}

TEST(IdxTest, RefusesEveryTruncation) {
  test_support::ExpectEveryTruncationRefused(kBytes, "x.idx", kInvalid, ReadStatus);
  test_support::ExpectEveryTruncationRefused(Compressed(kBytes), "x.gz", kInvalid, ReadStatus);
}

TEST(IdxTest, SurvivesEveryBitFlip) {
  test_support::ExpectEveryBitFlipSurvived(kBytes, "x.idx", kInvalid, ReadStatus);
  test_support::ExpectEveryBitFlipSurvived(Compressed(kBytes), "x.gz", kInvalid, ReadStatus);
}

TEST(IdxTest, RefusesSizesThatTheFileCannotHoldBeforeTakingMemory) {
  const std::string header("\x00\x00\x08\x02\x00\x01\x00\x00\x00\x01\x00\x00", 12);  // 4 GiB
  EXPECT_THAT(ReadBytes(header + "x"), StatusIs(kInvalid, HasSubstr("can hold at most 1")));
  EXPECT_THAT(ReadBytes(Compressed(header + std::string(100000, '\0'))),
              StatusIs(kInvalid, HasSubstr("needs 4294967296 bytes, the file can hold at most")));
  const std::string overflow("\x00\x00\x0e\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                             16);
  EXPECT_THAT(ReadBytes(overflow), StatusIs(kInvalid, HasSubstr("too large")));
  EXPECT_THAT(ReadBytes(std::string("\x00\x00\x08\xff", 4) + std::string(1020, '\xff')),
              StatusIs(kInvalid, HasSubstr("too large")));
}

TEST(IdxTest, AcceptsTheBestThatDeflateCanDo) {
  const std::string zeros(1 << 20, '\0');
  const std::string compressed =
      Compressed(std::string("\x00\x00\x08\x01\x00\x10\x00\x00", 8) + zeros);
  ASSERT_LT(compressed.size(), 1100u);  // close to the bound of 1032 to 1
  absl::StatusOr<Array> array = ReadBytes(compressed);
  ASSERT_THAT(array, IsOk());
  EXPECT_EQ(array->bytes, zeros);
}

TEST(IdxTest, KeepsTheLimit) {
  TempFolder folder;
  const std::string path = folder.Write("x.gz", Compressed(kBytes));
  EXPECT_THAT(ReadIdx(path, 6), IsOk());
  EXPECT_THAT(ReadIdx(path, 5), StatusIs(kInvalid, HasSubstr("limit of 5")));
}

}  // namespace
}  // namespace laplaced
