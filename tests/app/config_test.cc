#include "server/app/config.h"

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace laplaced {
namespace {

using laplace::v1::ServerConfig;
using test_support::IsOk;
using test_support::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

ServerConfig GoodConfig() {
  ServerConfig config = DefaultConfig();
  config.set_registry("/r");
  return config;
}

TEST(ConfigTest, DefaultsNeedOnlyARegistry) {
  EXPECT_THAT(ValidateConfig(GoodConfig()), IsOk());
  EXPECT_THAT(ValidateConfig(DefaultConfig()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("registry"), HasSubstr("--registry DIR"))));
}

TEST(ConfigTest, EveryFieldHasADefault) {
  const ServerConfig config = DefaultConfig();
  const auto& descriptor = *ServerConfig::descriptor();
  for (int i = 0; i < descriptor.field_count(); ++i) {
    EXPECT_TRUE(config.GetReflection()->HasField(config, descriptor.field(i)))
        << descriptor.field(i)->name();
  }
}

struct BadSetting {
  std::function<void(ServerConfig&)> change;
  std::string name;
  std::string expected;
  std::string got;
};

TEST(ConfigTest, BadSettingsAreNamedWithExpectedAndGot) {
  const std::vector<BadSetting> bad_settings = {
      {[](auto& c) { c.set_listen("8033"); }, "listen", "host:port", "got '8033'"},
      {[](auto& c) { c.set_listen(":8033"); }, "listen", "host:port", "got ':8033'"},
      {[](auto& c) { c.set_listen("a:65536"); }, "listen", "host:port", "got 'a:65536'"},
      {[](auto& c) { c.set_listen("a:-1"); }, "listen", "host:port", "got 'a:-1'"},
      {[](auto& c) { c.set_listen("a:http"); }, "listen", "host:port", "got 'a:http'"},
      {[](auto& c) { c.set_listen("::1:80"); }, "listen", "brackets", "got '::1:80'"},
      {[](auto& c) { c.set_listen("unix:"); }, "listen", "unix:path", "got 'unix:'"},
      {[](auto& c) { c.set_http_listen("8034"); }, "http_listen", "host:port", "got '8034'"},
      {[](auto& c) { c.set_http_listen(""); }, "http_listen", "or off", "got ''"},
      {[](auto& c) { c.set_http_listen("a:70000"); }, "http_listen", "or off", "got 'a:70000'"},
      {[](auto& c) { c.set_http_listen("::1:80"); }, "http_listen", "brackets", "got '::1:80'"},
      {[](auto& c) { c.set_http_listen("unix:/s"); }, "http_listen", "or off", "got 'unix:/s'"},
      {[](auto& c) { c.set_load("a,,b"); }, "load", "'none' or a list", "got ''"},
      {[](auto& c) { c.set_load("a/0"); }, "load", "list", "got 'a/0'"},
      {[](auto& c) { c.set_load("a/1/2"); }, "load", "list", "got 'a/1/2'"},
      {[](auto& c) { c.set_load("../x"); }, "load", "list", "got '../x'"},
      {[](auto& c) { c.set_compute_threads(-1); }, "compute_threads", "from 0", "got -1"},
      {[](auto& c) { c.set_max_queue(0); }, "max_queue", "from 1", "got 0"},
      {[](auto& c) { c.set_max_batch_size(-5); }, "max_batch_size", "from 1", "got -5"},
      {[](auto& c) { c.set_max_message_bytes(int64_t{1} << 31); }, "max_message_bytes",
       "to 2147483647", "got 2147483648"},
      {[](auto& c) { c.set_max_dataset_bytes(0); }, "max_dataset_bytes", "from 1", "got 0"},
      {[](auto& c) { c.set_max_concurrent_fits(65); }, "max_concurrent_fits", "to 64", "got 65"},
      {[](auto& c) { c.set_drain_seconds(-1); }, "drain_seconds", "from 0", "got -1"},
      {[](auto& c) { c.set_drain_seconds(std::nan("")); }, "drain_seconds", "from 0", "got nan"},
      {[](auto& c) { c.set_model_name("net"); }, "model_name", "read_only", "written to"},
      {[](auto& c) {
         c.set_read_only(true);
         c.set_model_name("a/b");
       },
       "model_name", "", "a/b"},
      {[](auto& c) { c.set_log_level("loud"); }, "log_level", "debug, info", "got 'loud'"},
  };
  for (const BadSetting& bad : bad_settings) {
    ServerConfig config = GoodConfig();
    bad.change(config);
    EXPECT_THAT(ValidateConfig(config),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         AllOf(HasSubstr(bad.name), HasSubstr(bad.expected), HasSubstr(bad.got))));
  }
}

TEST(ConfigTest, AcceptsTheFormsOfAnAddress) {
  for (const char* listen : {"127.0.0.1:0", "0.0.0.0:8033", "[::]:8033", "localhost:1",
                             "host.example.org:65535", "unix:/run/laplaced.sock"}) {
    ServerConfig config = GoodConfig();
    config.set_listen(listen);
    EXPECT_THAT(ValidateConfig(config), IsOk()) << listen;
  }
}

TEST(ConfigTest, HttpPortMayBeAnyOrNone) {
  for (const char* listen : {"off", "127.0.0.1:0", "0.0.0.0:8034", "[::]:8034"}) {
    ServerConfig config = GoodConfig();
    config.set_http_listen(listen);
    EXPECT_THAT(ValidateConfig(config), IsOk()) << listen;
  }
}

TEST(ConfigTest, JsonOverwritesOnlyWhatItNames) {
  ServerConfig config = GoodConfig();
  ASSERT_THAT(MergeJson(R"({"max_queue": 3, "load": "none"})", "x.json", &config), IsOk());
  EXPECT_EQ(config.max_queue(), 3);
  EXPECT_EQ(config.load(), "none");
  EXPECT_EQ(config.registry(), "/r");
  EXPECT_EQ(config.max_batch_size(), 1024);
}

TEST(ConfigTest, JsonZeroIsNotTheDefault) {
  ServerConfig config = GoodConfig();
  ASSERT_THAT(MergeJson(R"({"drain_seconds": 0, "max_queue": 0})", "x.json", &config), IsOk());
  EXPECT_EQ(config.drain_seconds(), 0);
  EXPECT_THAT(ValidateConfig(config),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("max_queue")));
}

TEST(ConfigTest, BadJsonNamesFileAndSetting) {
  ServerConfig config = GoodConfig();
  const auto message_of = [&](const std::string& json) {
    return std::string(MergeJson(json, "config file x.json", &config).message());
  };
  EXPECT_THAT(message_of(R"({"max_que": 3})"), AllOf(HasSubstr("x.json"), HasSubstr("max_que")));
  EXPECT_THAT(message_of(R"({"max_queue": "many"})"), HasSubstr("many"));
  EXPECT_THAT(message_of("{"), HasSubstr("x.json"));
  EXPECT_THAT(message_of("[]"), HasSubstr("expected a JSON object"));
  EXPECT_EQ(config.max_queue(), 256);
}

TEST(ConfigTest, PrintedConfigReadsBackEqual) {
  ServerConfig config = GoodConfig();
  config.set_max_dataset_bytes(int64_t{1} << 60);
  config.set_drain_seconds(0.1);
  const std::string json = ConfigJson(config);
  EXPECT_THAT(json, HasSubstr("\"max_dataset_bytes\""));
  ServerConfig read;
  ASSERT_THAT(MergeJson(json, "x.json", &read), IsOk());
  EXPECT_EQ(read.SerializeAsString(), config.SerializeAsString());
}

}  // namespace
}  // namespace laplaced
