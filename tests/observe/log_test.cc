#include "server/observe/log.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

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

TEST(LogTest, FieldsFollowTheMessage) {
  CaptureStderr();
  LogInfo("loaded", {{"model", "net"}, {"version", 3}, {"seconds", 0.5}, {"why", "a \"b\"\n=c"}});
  EXPECT_THAT(
      GetCapturedStderr(),
      HasSubstr("info loaded model=net version=3 seconds=0.5 why=\"a \\\"b\\\"\\x0a=c\"\n"));
}

TEST(LogTest, JsonIsJsonWhateverIsInIt) {
  SetLogFormat(LogFormat::kJson);
  CaptureStderr();
  LogWarning("bad \xff\xfe \"text\"\n", {{"n", 3}, {"name", std::string("\x00\x80", 2)}});
  SetLogFormat(LogFormat::kText);
  const std::string written = GetCapturedStderr();
  EXPECT_EQ(written.find('\n'), written.size() - 1);
  const auto line = nlohmann::json::parse(written);
  EXPECT_EQ(line["severity"], "WARNING");
  EXPECT_EQ(line["n"], 3);
  EXPECT_THAT(line["message"].get<std::string>(), HasSubstr("\"text\"\n"));
  EXPECT_THAT(line["time"].get<std::string>(),
              MatchesRegex("[0-9]+-[0-9]+-[0-9]+T[0-9:]+[.][0-9]+Z"));
}

TEST(LogTest, KnowsItsFormats) {
  LogFormat format = LogFormat::kText;
  EXPECT_TRUE(ParseLogFormat("json", &format));
  EXPECT_EQ(format, LogFormat::kJson);
  EXPECT_TRUE(ParseLogFormat("text", &format));
  EXPECT_EQ(format, LogFormat::kText);
  EXPECT_TRUE(ParseLogFormat("auto", &format));
  EXPECT_FALSE(ParseLogFormat("xml", &format));
}

}  // namespace
}  // namespace laplaced
