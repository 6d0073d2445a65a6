#include "server/registry/sealed_json.h"

#include "formats/sha256.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/hostile_bytes.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using ::laplaced::test_support::IsOk;
using ::laplaced::test_support::StatusIs;
using ::laplaced::test_support::TempFolder;
using ::testing::HasSubstr;

constexpr absl::StatusCode kDataLoss = absl::StatusCode::kDataLoss;

Json Example() {
  Json object;
  object["number"] = 1e-7;
  object["text"] = "a \"b\" \xc3\xa9";
  object["list"] = {1, 2, 3};
  return object;
}

absl::Status ReadStatus(const std::string& path) { return ReadSealedFile(path).status(); }

TEST(SealedJsonTest, RoundTrips) {
  absl::StatusOr<Json> read = UnsealJson(SealJson(Example()));
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(*read, Example());
}

TEST(SealedJsonTest, IsPlainJsonWhoseChecksumAnyoneCanRecompute) {
  const std::string text = SealJson(Example());
  const Json object = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  ASSERT_TRUE(object.is_object());
  const size_t comma = text.rfind(",\n  \"record_sha256\"");
  ASSERT_NE(comma, std::string::npos);
  EXPECT_EQ(object["record_sha256"], Sha256Hex(text.substr(0, comma)));
}

TEST(SealedJsonTest, RefusesEveryBitFlipAndTruncation) {
  const std::string text = SealJson(Example());
  test_support::ExpectEveryBitFlipRefused(text, "x.json", kDataLoss, ReadStatus);
  test_support::ExpectEveryTruncationRefused(text, "x.json", kDataLoss, ReadStatus);
}

TEST(SealedJsonTest, RefusesAdditionsAndUnsealedText) {
  const std::string text = SealJson(Example());
  for (const std::string& other : {text + "\n", " " + text, Example().dump(), std::string()}) {
    EXPECT_THAT(UnsealJson(other), StatusIs(kDataLoss));
  }
}

TEST(SealedJsonTest, ReplacesBytesThatAreNotUtf8) {
  Json object;
  object["text"] = "bad \xff byte";
  absl::StatusOr<Json> read = UnsealJson(SealJson(object));
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ((*read)["text"], "bad \xef\xbf\xbd byte");
}

TEST(SealedJsonTest, NamesTheFile) {
  TempFolder folder;
  EXPECT_THAT(ReadStatus(folder.Write("x.json", "{}")),
              StatusIs(kDataLoss, HasSubstr("x.json: damaged")));
  EXPECT_THAT(ReadStatus(folder.File("none")), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(ReadStatus(folder.path()), StatusIs(kDataLoss));
  EXPECT_THAT(ReadStatus(folder.Write("big", std::string(kMaxRecordBytes + 1, ' '))),
              StatusIs(kDataLoss, HasSubstr("at most")));
}

}  // namespace
}  // namespace laplaced
