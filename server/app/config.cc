#include "server/app/config.h"

#include <google/protobuf/util/json_util.h>

#include <cmath>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/app/model_selection.h"
#include "server/observe/log.h"
#include "server/registry/repository.h"
#include "server/rpc/server_credentials.h"
#include "server/rpc/token_table.h"

namespace laplaced {
namespace {

namespace pb = google::protobuf;
using laplace::v1::ServerConfig;

absl::Status BadSetting(absl::string_view name, absl::string_view expected, absl::string_view got) {
  return absl::InvalidArgumentError(absl::StrCat(name, ": expected ", expected, ", got ", got));
}

std::string Quoted(absl::string_view text) { return absl::StrCat("'", text, "'"); }

absl::Status CheckRange(absl::string_view name, int64_t value, int64_t smallest, int64_t largest) {
  if (value >= smallest && value <= largest) return absl::OkStatus();
  return BadSetting(name, absl::StrCat("a number from ", smallest, " to ", largest),
                    absl::StrCat(value));
}

absl::Status CheckNumbers(const ServerConfig& config) {
  constexpr int64_t kLargestMessage = std::numeric_limits<int32_t>::max();  // gRPC's limit
  constexpr int64_t kLargest = std::numeric_limits<int64_t>::max();
  const struct {
    const char* name;
    int64_t value;
    int64_t smallest;
    int64_t largest;
  } numbers[] = {{"compute_threads", config.compute_threads(), 0, 1024},
                 {"max_queue", config.max_queue(), 1, 1000000},
                 {"max_batch_size", config.max_batch_size(), 1, 1000000},
                 {"max_message_bytes", config.max_message_bytes(), 4096, kLargestMessage},
                 {"max_dataset_bytes", config.max_dataset_bytes(), 1, kLargest},
                 {"max_model_bytes", config.max_model_bytes(), 0, kLargest},
                 {"max_datasets_bytes", config.max_datasets_bytes(), 0, kLargest},
                 {"max_concurrent_fits", config.max_concurrent_fits(), 1, 64},
                 {"max_batch_rows", config.max_batch_rows(), 1, 64},
                 {"max_concurrent_streams", config.max_concurrent_streams(), 1, 1000000}};
  for (const auto& number : numbers) {
    absl::Status status = CheckRange(number.name, number.value, number.smallest, number.largest);
    if (!status.ok()) return status;
  }
  constexpr double kDay = 24 * 3600;
  const struct {
    const char* name;
    double value;
    double smallest;
    double largest;
  } times[] = {
      {"drain_seconds", config.drain_seconds(), 0, kDay},
      {"drain_delay_seconds", config.drain_delay_seconds(), 0, kDay},
      {"max_batch_delay_ms", config.max_batch_delay_ms(), 0, 1000},
      {"max_queue_delay_ms", config.max_queue_delay_ms(), 0, 3600e3},
      {"registry_poll_seconds", config.registry_poll_seconds(), 0, kDay},
      {"credentials_refresh_seconds", config.credentials_refresh_seconds(), 1, kDay},
  };
  for (const auto& time : times) {
    if (time.value >= time.smallest && time.value <= time.largest) continue;
    return BadSetting(time.name,
                      absl::StrCat("a number from ", time.smallest, " to ", time.largest),
                      absl::StrCat(time.value));
  }
  return absl::OkStatus();
}

absl::Status CheckHostAndPort(absl::string_view name, absl::string_view expected,
                              const std::string& listen) {
  const size_t colon = listen.rfind(':');
  int32_t port = -1;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(listen.substr(colon + 1), &port) || port < 0 || port > 65535) {
    return BadSetting(name, expected, Quoted(listen));
  }
  const std::string host = listen.substr(0, colon);
  if (host.find(':') != std::string::npos && (host.front() != '[' || host.back() != ']')) {
    return BadSetting(name, "brackets around an IPv6 address, such as [::1]:8033", Quoted(listen));
  }
  return absl::OkStatus();
}

absl::Status CheckListen(const std::string& listen) {
  constexpr char kExpected[] = "host:port such as 127.0.0.1:8033 or [::]:8033, or unix:path";
  constexpr char kUnix[] = "unix:";
  if (listen.rfind(kUnix, 0) != 0) return CheckHostAndPort("listen", kExpected, listen);
  if (listen.size() > sizeof(kUnix) - 1) return absl::OkStatus();
  return BadSetting("listen", kExpected, Quoted(listen));
}

absl::Status CheckHttpListen(const std::string& listen) {
  if (listen == kNoHttp) return absl::OkStatus();
  return CheckHostAndPort("http_listen", "host:port such as 127.0.0.1:8034 or [::]:8034, or off",
                          listen);
}

absl::Status CheckModelName(const ServerConfig& config) {
  if (config.model_name().empty()) return absl::OkStatus();
  if (!config.read_only()) {
    return BadSetting("model_name", "read_only beside it", "a registry that is written to");
  }
  const absl::Status status = ValidateName("model_name", config.model_name());
  if (status.ok()) return status;
  return absl::InvalidArgumentError(status.message());
}

// Which settings of TLS and tokens go together, and whether their files can be used.
absl::Status CheckCredentials(const ServerConfig& config) {
  const bool cert = !config.tls_cert().empty(), key = !config.tls_key().empty();
  if (cert != key) {
    return BadSetting(cert ? "tls_key" : "tls_cert",
                      absl::StrCat("a file, because ", cert ? "tls_cert" : "tls_key", " has one"),
                      "none");
  }
  if (!config.tls_client_ca().empty() && !cert) {
    return BadSetting("tls_client_ca", "tls_cert and tls_key beside it",
                      "neither: client certificates need TLS");
  }
  if (cert) {
    absl::Status status =
        CheckTlsFiles({config.tls_cert(), config.tls_key(), config.tls_client_ca()});
    if (!status.ok()) return status;
  }
  if (config.tokens().empty()) return absl::OkStatus();
  const absl::Status tokens = TokenTable::Read(config.tokens()).status();
  if (tokens.ok()) return tokens;
  return absl::InvalidArgumentError(absl::StrCat("tokens: ", tokens.message()));
}

}  // namespace

ServerConfig DefaultConfig() {
  ServerConfig config;
  config.set_registry("");
  config.set_listen("127.0.0.1:8033");
  config.set_address_file("");
  config.set_load("all");
  config.set_compute_threads(0);
  config.set_max_queue(256);
  config.set_max_batch_size(1024);
  config.set_max_message_bytes(16 << 20);
  config.set_max_dataset_bytes(int64_t{4} << 30);
  config.set_max_concurrent_fits(1);
  config.set_drain_seconds(10);
  config.set_log_level("info");
  config.set_allow_slow_blas(false);
  config.set_read_only(false);
  config.set_http_listen("127.0.0.1:8034");
  config.set_max_batch_rows(64);
  config.set_max_batch_delay_ms(0);
  config.set_max_queue_delay_ms(0);
  config.set_tls_cert("");
  config.set_tls_key("");
  config.set_tls_client_ca("");
  config.set_credentials_refresh_seconds(30);
  config.set_tokens("");
  config.set_reflection(true);
  config.set_max_concurrent_streams(256);
  config.set_log_format("auto");
  config.set_drain_delay_seconds(0);
  config.set_registry_poll_seconds(5);
  config.set_max_model_bytes(0);
  config.set_max_datasets_bytes(0);
  config.set_model_name("");
  return config;
}

absl::Status MergeJson(const std::string& json, const std::string& source, ServerConfig* config) {
  ServerConfig read;
  const auto status = pb::util::JsonStringToMessage(json, &read);
  if (!status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": expected a JSON object with the settings of --help under their ",
                     "names with '_', got: ", std::string(status.message())));
  }
  config->MergeFrom(read);
  return absl::OkStatus();
}

absl::Status SetField(const pb::FieldDescriptor& field, const std::string& text,
                      const std::string& source, ServerConfig* config) {
  const pb::Reflection& reflection = *config->GetReflection();
  switch (field.cpp_type()) {
    case pb::FieldDescriptor::CPPTYPE_STRING:
      reflection.SetString(config, &field, text);
      return absl::OkStatus();
    case pb::FieldDescriptor::CPPTYPE_INT32: {
      int32_t value = 0;
      if (!absl::SimpleAtoi(text, &value)) break;
      reflection.SetInt32(config, &field, value);
      return absl::OkStatus();
    }
    case pb::FieldDescriptor::CPPTYPE_INT64: {
      int64_t value = 0;
      if (!absl::SimpleAtoi(text, &value)) break;
      reflection.SetInt64(config, &field, value);
      return absl::OkStatus();
    }
    case pb::FieldDescriptor::CPPTYPE_DOUBLE: {
      double value = 0;
      if (!absl::SimpleAtod(text, &value)) {
        return BadSetting(source, "a number", Quoted(text));
      }
      reflection.SetDouble(config, &field, value);
      return absl::OkStatus();
    }
    case pb::FieldDescriptor::CPPTYPE_BOOL: {
      bool value = false;
      if (!absl::SimpleAtob(text, &value)) {
        return BadSetting(source, "true or false", Quoted(text));
      }
      reflection.SetBool(config, &field, value);
      return absl::OkStatus();
    }
    default:
      return absl::InternalError(absl::StrCat("setting ", field.name(), " has an unknown type"));
  }
  return BadSetting(source, "a whole number", Quoted(text));
}

absl::Status ValidateConfig(const ServerConfig& config) {
  if (config.registry().empty()) {
    return BadSetting("registry", "the folder that holds models and posteriors (--registry DIR)",
                      "nothing");
  }
  absl::Status status = CheckListen(config.listen());
  if (status.ok()) status = CheckHttpListen(config.http_listen());
  if (status.ok()) status = ParseModelSelection(config.load()).status();
  if (status.ok()) status = CheckModelName(config);
  if (status.ok()) status = CheckNumbers(config);
  if (!status.ok()) return status;
  status = CheckCredentials(config);
  if (!status.ok()) return status;
  LogLevel level;
  if (!ParseLogLevel(config.log_level(), &level)) {
    return BadSetting("log_level", "debug, info, warning or error", Quoted(config.log_level()));
  }
  LogFormat format;
  if (!ParseLogFormat(config.log_format(), &format)) {
    return BadSetting("log_format", "text, json or auto", Quoted(config.log_format()));
  }
  return absl::OkStatus();
}

std::string ConfigJson(const ServerConfig& config) {
  pb::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  std::string json;
  // Cannot fail for a message of plain fields.
  (void)pb::util::MessageToJsonString(config, &json, options);
  return json;
}

}  // namespace laplaced
