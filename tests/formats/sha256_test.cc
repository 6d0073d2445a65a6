#include "formats/sha256.h"

#include "absl/strings/escaping.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using ::laplaced::test_support::IsOk;
using ::laplaced::test_support::StatusIs;
using ::laplaced::test_support::TempFolder;

// The examples of FIPS 180-2, appendix B, and the empty message.
constexpr char kEmpty[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
constexpr char kAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
constexpr char kTwoBlocks[] = "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1";
constexpr char kMillion[] = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

TEST(Sha256Test, MatchesKnownAnswers) {
  EXPECT_EQ(Sha256Hex(""), kEmpty);
  EXPECT_EQ(Sha256Hex("abc"), kAbc);
  EXPECT_EQ(Sha256Hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"), kTwoBlocks);
  EXPECT_EQ(Sha256Hex(std::string(1000000, 'a')), kMillion);
}

TEST(Sha256Test, DoesNotDependOnHowTheBytesArrive) {
  for (size_t step : {1, 63, 64, 65, 999}) {
    Sha256 sha;
    const std::string block(step, 'a');
    for (size_t done = 0; done < 1000000; done += step) {
      sha.Update(block.data(), std::min(step, 1000000 - done));
    }
    EXPECT_EQ(absl::BytesToHexString(sha.Finish()), kMillion) << step;
  }
}

TEST(Sha256Test, SurvivesBeingMoved) {
  Sha256 first;
  first.Update("ab");
  Sha256 second = std::move(first);
  second.Update("c");
  EXPECT_EQ(absl::BytesToHexString(second.Finish()), kAbc);
}

TEST(Sha256Test, HashesFiles) {
  TempFolder folder;
  EXPECT_EQ(*Sha256File(folder.Write("empty", "")), kEmpty);
  absl::StatusOr<std::string> hex = Sha256File(folder.Write("a", std::string(1000000, 'a')));
  ASSERT_THAT(hex, IsOk());
  EXPECT_EQ(*hex, kMillion);
}

TEST(Sha256Test, RefusesMissingFilesAndFolders) {
  TempFolder folder;
  EXPECT_THAT(Sha256File(folder.File("none")), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(Sha256File(folder.path()), StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace laplaced
