#include "server/distributed/launch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

namespace laplaced {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

using Variables = std::map<std::string, std::string>;

absl::StatusOr<Launch> LaunchWith(const Variables& variables) {
  return LaunchOf([&](const char* name) {
    const auto it = variables.find(name);
    return it == variables.end() ? nullptr : it->second.c_str();
  });
}

const Variables kSecondOfThree = {{"RANK", "1"},
                                  {"WORLD_SIZE", "3"},
                                  {"LOCAL_WORLD_SIZE", "2"},
                                  {"MASTER_ADDR", "fit-master-0"},
                                  {"MASTER_PORT", "29500"}};

Variables Changed(const std::string& name, const std::string& value) {
  Variables variables = kSecondOfThree;
  variables[name] = value;
  return variables;
}

Variables Without(const std::string& name) {
  Variables variables = kSecondOfThree;
  variables.erase(name);
  return variables;
}

TEST(LaunchTest, AProcessWithoutLauncherIsAlone) {
  const auto launch = LaunchWith({{"RANK", "7"}});
  ASSERT_TRUE(launch.ok());
  EXPECT_EQ(launch->rank, 0);
  EXPECT_EQ(launch->size, 1);
  // One that was launched alone needs nobody to meet.
  EXPECT_EQ(LaunchWith({{"RANK", "0"}, {"WORLD_SIZE", "1"}})->size, 1);
}

TEST(LaunchTest, ReadsWhatPyTorchJobSets) {
  const auto launch = LaunchWith(kSecondOfThree);
  ASSERT_TRUE(launch.ok()) << launch.status();
  EXPECT_EQ(launch->rank, 1);
  EXPECT_EQ(launch->size, 3);
  EXPECT_EQ(launch->local_size, 2);
  EXPECT_EQ(launch->master_host, "fit-master-0");
  EXPECT_EQ(launch->master_port, 29500);
  EXPECT_FALSE(launch->launcher_has_store);
}

TEST(LaunchTest, TorchrunKeepsTheMeetingPointItself) {
  Variables variables = Changed("TORCHELASTIC_USE_AGENT_STORE", "True");
  variables["TORCHELASTIC_RESTART_COUNT"] = "2";
  const auto launch = LaunchWith(variables);
  ASSERT_TRUE(launch.ok());
  EXPECT_TRUE(launch->launcher_has_store);
  EXPECT_EQ(launch->attempt, "2");
}

TEST(LaunchTest, ErrorsNameTheVariable) {
  const auto message = [](const Variables& variables) {
    const auto launch = LaunchWith(variables);
    EXPECT_EQ(launch.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(launch.status().message());
  };
  EXPECT_THAT(message(Without("RANK")), StartsWith("RANK: is not set"));
  EXPECT_THAT(message(Without("MASTER_ADDR")), StartsWith("MASTER_ADDR: is not set"));
  EXPECT_THAT(message(Without("MASTER_PORT")), StartsWith("MASTER_PORT: is not set"));
  EXPECT_THAT(message(Changed("RANK", "3")), HasSubstr("from 0 to 2, got '3'"));
  EXPECT_THAT(message(Changed("RANK", "one")), HasSubstr("got 'one'"));
  EXPECT_THAT(message(Changed("WORLD_SIZE", "0")), StartsWith("WORLD_SIZE: expected"));
  EXPECT_THAT(message(Changed("MASTER_PORT", "70000")), StartsWith("MASTER_PORT: expected"));
  EXPECT_THAT(message(Changed("LOCAL_WORLD_SIZE", "4")), StartsWith("LOCAL_WORLD_SIZE: expected"));
}

}  // namespace
}  // namespace laplaced
