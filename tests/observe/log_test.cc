#include "server/observe/log.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace laplaced {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::internal::CaptureStderr;
using ::testing::internal::GetCapturedStderr;

TEST(LogTest, WritesOneLineWithTimeAndLevel) {
  CaptureStderr();
  LogInfo("loaded {} 100%");
  EXPECT_THAT(GetCapturedStderr(),
              MatchesRegex("[0-9]+-[0-9]+-[0-9]+T[0-9:]+[.][0-9]+Z info loaded .. 100%\n"));
}

TEST(LogTest, TextCannotForgeALine) {
  CaptureStderr();
  LogWarning("name 'x\n2026-01-01T00:00:00.000Z error forged'");
  const std::string written = GetCapturedStderr();
  EXPECT_THAT(written, HasSubstr("x\\x0a2026"));
  EXPECT_EQ(written.find('\n'), written.size() - 1);
}

TEST(LogTest, DropsWhatIsBelowTheLevel) {
  CaptureStderr();
  LogDebug("unseen");
  SetLogLevel(LogLevel::kError);
  LogWarning("unseen");
  SetLogLevel(LogLevel::kInfo);
  LogError("seen");
  const std::string written = GetCapturedStderr();
  EXPECT_THAT(written, HasSubstr("seen"));
  EXPECT_EQ(written.find("unseen"), std::string::npos);
}

TEST(LogTest, KnowsItsLevels) {
  LogLevel level = LogLevel::kInfo;
  EXPECT_TRUE(ParseLogLevel("debug", &level));
  EXPECT_EQ(level, LogLevel::kDebug);
  EXPECT_TRUE(ParseLogLevel("error", &level));
  EXPECT_EQ(level, LogLevel::kError);
  EXPECT_FALSE(ParseLogLevel("loud", &level));
}

}  // namespace
}  // namespace laplaced
