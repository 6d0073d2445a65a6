#include "client/cli/config_file.h"

#include <cstdlib>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "formats/atomic_file.h"
#include "formats/file_handle.h"

namespace laplace::cli {
namespace {

constexpr int64_t kMaxConfigBytes = 64 * 1024;

// A key is its flag without dashes in front and with underscores inside.
struct Setting {
  const char* key;
  std::string* text;  // or else
  bool* flag;
  bool is_file;
};

std::vector<Setting> Settings(Context& context) {
  return {{"server", &context.server, nullptr, false},
          {"token_file", &context.token_file, nullptr, true},
          {"tls", nullptr, &context.tls.enabled, false},
          {"ca_cert", &context.tls.ca_cert_file, nullptr, true},
          {"client_cert", &context.tls.client_cert_file, nullptr, true},
          {"client_key", &context.tls.client_key_file, nullptr, true},
          {"tls_server_name", &context.tls.server_name, nullptr, false}};
}

bool IsSaid(const CLI::App& app, const Context& context, const std::string& key) {
  // The token itself, in the environment, goes before a file that holds one.
  if (key == "token_file" && !context.token.empty()) return true;
  return app.get_option("--" + absl::StrReplaceAll(key, {{"_", "-"}}))->count() > 0;
}

absl::Status Apply(const std::string& path, const CLI::App& app, const Json& json,
                   Context& context) {
  const auto error = [&path](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
  };
  if (!json.is_object())
    return error("expected a JSON object, such as {\"server\": \"HOST:PORT\"}");
  const std::vector<Setting> settings = Settings(context);
  for (const auto& [key, value] : json.items()) {
    const Setting* setting = nullptr;
    for (const Setting& one : settings) {
      if (one.key == key) setting = &one;
    }
    if (setting == nullptr) {
      const std::string known = absl::StrJoin(
          settings, ", ",
          [](std::string* out, const Setting& one) { absl::StrAppend(out, one.key); });
      return error(absl::StrCat("there is no setting '", key, "'; expected some of ", known));
    }
    if (setting->flag != nullptr ? !value.is_boolean() : !value.is_string()) {
      return error(absl::StrCat(key, ": expected ",
                                setting->flag != nullptr ? "true or false" : "a string", ", got ",
                                value.dump(-1, ' ', false, Json::error_handler_t::replace)));
    }
    if (IsSaid(app, context, key)) continue;
    if (setting->flag != nullptr) {
      *setting->flag = value.get<bool>();
      continue;
    }
    std::string text = value.get<std::string>();
    if (text.empty()) return error(absl::StrCat(key, ": expected a string that is not empty"));
    if (setting->is_file && !absl::StartsWith(text, "/")) {
      text = absl::StrCat(laplaced::ParentFolder(path), "/", text);
    }
    *setting->text = std::move(text);
  }
  return absl::OkStatus();
}

}  // namespace

std::string DefaultConfigFile() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  const std::string config = variable("XDG_CONFIG_HOME");
  if (!config.empty()) return config + "/laplace/config.json";
  const std::string home = variable("HOME");
  return home.empty() ? "" : home + "/.config/laplace/config.json";
}

absl::Status ApplyConfigFile(const CLI::App& app, Context& context) {
  const bool named = !context.config_file.empty();
  const std::string path = named ? context.config_file : DefaultConfigFile();
  if (path.empty()) return absl::OkStatus();
  const absl::StatusOr<std::string> text = laplaced::ReadWholeFile(path, kMaxConfigBytes);
  if (!named && absl::IsNotFound(text.status())) return absl::OkStatus();
  if (!text.ok()) {
    return absl::Status(text.status().code(),
                        absl::StrCat("configuration file: ", text.status().message()));
  }
  const Json json = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected JSON, got something else"));
  }
  return Apply(path, app, json, context);
}

}  // namespace laplace::cli
