#include "server/app/command_line.h"

#include <map>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using laplace::v1::ServerConfig;
using test_support::IsOk;
using test_support::StatusIs;
using test_support::TempFolder;
using ::testing::AllOf;
using ::testing::HasSubstr;

absl::StatusOr<CommandLine> Parse(std::vector<std::string> flags,
                                  const std::map<std::string, std::string>& environment = {}) {
  std::vector<const char*> argv = {"laplaced"};
  for (const std::string& flag : flags) argv.push_back(flag.c_str());
  return ParseCommandLine(static_cast<int>(argv.size()), argv.data(), [&](const std::string& name) {
    const auto found = environment.find(name);
    return found == environment.end() ? nullptr : found->second.c_str();
  });
}

TEST(CommandLineTest, LaterSourcesWin) {
  TempFolder folder;
  const std::string file = folder.Write(
      "c.json", R"({"registry": "/file", "max_queue": 1, "max_batch_size": 1, "load": "none"})");
  const auto parsed = Parse({"--config", file, "--max-batch-size", "3"},
                            {{"LAPLACED_MAX_QUEUE", "2"}, {"LAPLACED_MAX_BATCH_SIZE", "2"}});
  ASSERT_THAT(parsed, IsOk());
  EXPECT_TRUE(parsed->serve);
  EXPECT_EQ(parsed->config.registry(), "/file");
  EXPECT_EQ(parsed->config.load(), "none");
  EXPECT_EQ(parsed->config.max_queue(), 2);
  EXPECT_EQ(parsed->config.max_batch_size(), 3);
  EXPECT_EQ(parsed->config.max_concurrent_fits(), 1);
}

TEST(CommandLineTest, EveryFieldCanBeSetByFlagAndEnvironment) {
  const auto& descriptor = *ServerConfig::descriptor();
  const auto help = Parse({"--help"});
  ASSERT_THAT(help, IsOk());
  // Printed rather than used, so that files need not be there.
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const auto& field = *descriptor.field(i);
    const std::string flag = absl::StrCat("--", absl::StrReplaceAll(field.name(), {{"_", "-"}}));
    EXPECT_THAT(help->output, HasSubstr(flag));
    const std::string value = field.name() == "log_level"              ? "error"
                              : field.name() == "listen"               ? "[::]:1"
                              : field.name() == "http_listen"          ? "off"
                              : field.name() == "reflection"           ? "false"
                              : field.cpp_type() == field.CPPTYPE_BOOL ? "true"
                              : field.name() == "max_message_bytes"    ? "4097"
                                                                       : "7";
    const auto by_flag = Parse({"--print-config", "--registry=/r", absl::StrCat(flag, "=", value)});
    const auto by_environment =
        Parse({"--print-config"},
              {{"LAPLACED_REGISTRY", field.name() == "registry" ? "7" : "/r"},
               {absl::StrCat("LAPLACED_", absl::AsciiStrToUpper(field.name())), value}});
    if (field.name() == "registry") continue;  // given twice above
    ASSERT_THAT(by_flag, IsOk()) << flag;
    ASSERT_THAT(by_environment, IsOk()) << flag;
    EXPECT_EQ(by_flag->config.SerializeAsString(), by_environment->config.SerializeAsString());
    const auto plain = Parse({"--print-config", "--registry=/r"});
    EXPECT_NE(by_flag->config.SerializeAsString(), plain->config.SerializeAsString()) << flag;
  }
}

TEST(CommandLineTest, FlagsMayBeWrittenWithUnderscores) {
  const auto parsed = Parse({"--registry=/a_b", "--model_name=a_b", "--read_only", "--http_listen",
                             "a_b:1", "--load=c_d"});
  ASSERT_THAT(parsed, IsOk());
  EXPECT_EQ(parsed->config.registry(), "/a_b");
  EXPECT_EQ(parsed->config.model_name(), "a_b");
  EXPECT_TRUE(parsed->config.read_only());
  EXPECT_EQ(parsed->config.http_listen(), "a_b:1");
  EXPECT_EQ(parsed->config.load(), "c_d");
}

TEST(CommandLineTest, BadTextNamesItsSource) {
  EXPECT_THAT(Parse({"--registry=/r", "--max-queue", "many"}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("--max-queue"), HasSubstr("whole number"),
                             HasSubstr("got 'many'"))));
  EXPECT_THAT(Parse({"--registry=/r"}, {{"LAPLACED_DRAIN_SECONDS", "soon"}}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("LAPLACED_DRAIN_SECONDS"), HasSubstr("got 'soon'"))));
  EXPECT_THAT(Parse({"--registry=/r"}, {{"LAPLACED_ALLOW_SLOW_BLAS", "perhaps"}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("true or false")));
  EXPECT_THAT(Parse({"--registry=/r", "--max-queue=99999999999"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("99999999999")));
}

TEST(CommandLineTest, UnknownFlagsAndWordsAreErrors) {
  EXPECT_THAT(Parse({"--registry=/r", "--max-que=3"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--max-que")));
  EXPECT_THAT(Parse({"--registry=/r", "serve"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("serve")));
  EXPECT_THAT(Parse({"--registry"}), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(CommandLineTest, MissingConfigFileIsAnError) {
  EXPECT_THAT(Parse({"--config", "/nowhere/c.json"}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nowhere/c.json")));
}

TEST(CommandLineTest, VariablesOfKubernetesAreLeftAlone) {
  EXPECT_THAT(Parse({"--registry=/r"}, {{"LAPLACED_PORT", "tcp://10.0.0.1:8033"},
                                        {"LAPLACED_SERVICE_HOST", "10.0.0.1"}}),
              IsOk());
}

TEST(CommandLineTest, BooleanFlagTakesAnOptionalValue) {
  EXPECT_TRUE(Parse({"--registry=/r", "--allow-slow-blas"})->config.allow_slow_blas());
  EXPECT_FALSE(
      Parse({"--registry=/r", "--allow-slow-blas=false"}, {{"LAPLACED_ALLOW_SLOW_BLAS", "true"}})
          ->config.allow_slow_blas());
}

TEST(CommandLineTest, HelpVersionAndChecksDoNotServe) {
  const auto help = Parse({"--help"});
  ASSERT_THAT(help, IsOk());
  EXPECT_FALSE(help->serve);
  EXPECT_THAT(help->output, AllOf(HasSubstr("default 127.0.0.1:8033"), HasSubstr("LAPLACED_")));
  const auto version = Parse({"--version"});
  ASSERT_THAT(version, IsOk());
  EXPECT_THAT(version->output, HasSubstr("laplaced "));
  const auto checked = Parse({"--registry=/r", "--check-config"});
  ASSERT_THAT(checked, IsOk());
  EXPECT_FALSE(checked->serve);
  EXPECT_THAT(Parse({"--check-config"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("registry")));
}

TEST(CommandLineTest, PrintConfigShowsWhatWouldBeUsed) {
  const auto printed = Parse({"--print-config", "--max-queue=9"});
  ASSERT_THAT(printed, IsOk());
  EXPECT_FALSE(printed->serve);
  EXPECT_THAT(printed->output, AllOf(HasSubstr("\"max_queue\": 9"), HasSubstr("\"registry\": \"\""),
                                     HasSubstr("\"allow_slow_blas\": false")));
}

}  // namespace
}  // namespace laplaced
