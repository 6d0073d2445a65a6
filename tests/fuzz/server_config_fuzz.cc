// The server's settings: a JSON file, or, if the first byte is odd, one setting of it as a flag or
// the environment gives it. What is read must be printed and read again as the same.
#include <nlohmann/json.hpp>

#include "server/app/config.h"
#include "tests/fuzz/heap_bound.h"
#include "tests/fuzz/target.h"

namespace laplaced::fuzz {
namespace {

using laplace::v1::ServerConfig;

constexpr size_t kMaxBytes = 4096;
const auto kAllowed = {absl::StatusCode::kInvalidArgument};

// Paths need not be, but JSON has to.
bool IsUtf8(const std::string& text) {
  try {
    (void)nlohmann::json(text).dump();
    return true;
  } catch (const nlohmann::json::exception&) {
    return false;
  }
}

void Check(const ServerConfig& config) {
  ServerConfig again;
  const absl::Status status = MergeJson(ConfigJson(config), "printed", &again);
  Require(status.ok(), status.ToString());
  Require(ConfigJson(again) == ConfigJson(config), "settings differ after printing and reading");
  ServerConfig safe = config;  // files of the machine are not this target's business
  safe.clear_tls_cert();
  safe.clear_tls_key();
  safe.clear_tls_client_ca();
  safe.clear_tokens();
  RequireStatus(ValidateConfig(safe), kAllowed);
}

void Run(absl::string_view input) {
  if (input.empty()) return;
  const auto choice = static_cast<unsigned char>(input[0]);
  const std::string text(input.substr(1));
  ServerConfig config = DefaultConfig();
  config.set_registry("/registry");
  absl::Status status;
  if (choice % 2 == 0) {
    const HeapBound bound(input.size(), 64, 256 << 10);
    status = MergeJson(text, "config.json", &config);
  } else {
    const auto& fields = *ServerConfig::descriptor();
    const auto& field = *fields.field(choice / 2 % fields.field_count());
    const HeapBound bound(input.size(), 16, 64 << 10);
    status = SetField(field, text, "--flag", &config);
  }
  RequireStatus(status, kAllowed);
  if (status.ok() && IsUtf8(text)) Check(config);
}

std::vector<std::string> Seeds() {
  ServerConfig config = DefaultConfig();
  config.set_registry("/registry");
  config.set_load("fashion_cnn,speech/3,risk/latest:2,ocr/all");
  std::vector<std::string> seeds = {std::string(1, '\0') + ConfigJson(config),
                                    std::string(1, '\0') + "{\"maxQueue\": \"7\"}"};
  const char* const values[] = {"[::1]:8033", "all", "12", "0.5", "true", "unix:/run/x"};
  for (int field = 0; field < ServerConfig::descriptor()->field_count(); ++field) {
    seeds.push_back(static_cast<char>(1 + 2 * field) + std::string(values[field % 6]));
  }
  return seeds;
}

LAPLACED_FUZZ_TARGET(server_config, kMaxBytes, Run, Seeds);

}  // namespace
}  // namespace laplaced::fuzz
