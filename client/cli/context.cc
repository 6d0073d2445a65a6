#include "client/cli/context.h"

#include <algorithm>
#include <cstdlib>
#include <iostream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/json_output.h"
#include "client/cpp/errors.h"
#include "formats/file_handle.h"

namespace laplace::cli {

absl::StatusOr<client::ClientOptions> Context::Options() const {
  client::ClientOptions options;
  options.tls = tls;
  options.tls.enabled |= !tls.ca_cert_file.empty() || !tls.client_cert_file.empty() ||
                         !tls.client_key_file.empty() || !tls.server_name.empty();
  options.token = token;
  if (!token_file.empty()) {
    constexpr int64_t kMaxTokenBytes = 4096;
    const auto text = laplaced::ReadWholeFile(token_file, kMaxTokenBytes);
    if (!text.ok()) {
      return absl::Status(text.status().code(),
                          absl::StrCat("--token-file: ", text.status().message()));
    }
    options.token = std::string(absl::StripAsciiWhitespace(*text));
  }
  if (timeout_seconds > 0) {
    options.timeout = options.load_timeout = options.predict_timeout =
        absl::Seconds(timeout_seconds);
    options.stream_timeout = std::max(options.stream_timeout, 4 * options.predict_timeout);
  }
  return options;
}

absl::StatusOr<std::unique_ptr<client::Client>> Context::Connect() const {
  const auto options = Options();
  if (!options.ok()) return options.status();
  return client::Client::Connect(server, *options);
}

void AddConnectionOptions(CLI::App& app, Context& context) {
  app.add_option("--server", context.server, "Address of the server (default 127.0.0.1:8033)")
      ->type_name("HOST:PORT")
      ->envname("LAPLACE_SERVER");
  app.add_option("--timeout", context.timeout_seconds,
                 "Seconds that one call may take (default 10; 60 for predictions, 120 for loading)")
      ->type_name("SECONDS")
      ->check(Positive());
  app.add_flag("--tls", context.tls.enabled,
               "Encrypt the connection; the other options of TLS mean it too")
      ->envname("LAPLACE_TLS");
  const struct {
    const char* flag;
    std::string& value;
    const char* variable;
    const char* text;
  } files[] = {{"--ca-cert", context.tls.ca_cert_file, "LAPLACE_CA_CERT",
                "Authorities that may vouch for the server, PEM (default those of the system)"},
               {"--client-cert", context.tls.client_cert_file, "LAPLACE_CLIENT_CERT",
                "Certificate of this client, PEM, for servers that ask for one"},
               {"--client-key", context.tls.client_key_file, "LAPLACE_CLIENT_KEY",
                "Private key of --client-cert, PEM"},
               {"--token-file", context.token_file, "LAPLACE_TOKEN_FILE",
                "File with the bearer token to show; LAPLACE_TOKEN may hold the token itself"}};
  for (const auto& file : files) {
    app.add_option(file.flag, file.value, file.text)->type_name("FILE")->envname(file.variable);
  }
  app.add_option("--tls-server-name", context.tls.server_name,
                 "Name in the server's certificate, if it is not that of --server")
      ->type_name("NAME")
      ->envname("LAPLACE_TLS_SERVER_NAME");
  app.add_option("--config", context.config_file,
                 "JSON file with server, token_file, tls, ca_cert, client_cert, client_key and "
                 "tls_server_name, for what neither flag nor environment says (default "
                 "~/.config/laplace/config.json)")
      ->type_name("FILE")
      ->envname("LAPLACE_CONFIG");
  if (const char* token = std::getenv("LAPLACE_TOKEN")) context.token = token;
}

CLI::Option* AddModelArgument(CLI::App& app, ModelName& model) {
  return app
      .add_option_function<std::string>(
          "MODEL",
          [&model](const std::string& text) {
            const size_t slash = text.rfind('/');
            model.name = text.substr(0, slash);
            if (slash == std::string::npos) return;
            if (!absl::SimpleAtoi(text.substr(slash + 1), &model.version) || model.version < 1) {
              throw CLI::ValidationError("MODEL",
                                         absl::StrCat("expected name or name/version, got ", text));
            }
          },
          "Name of a model, or name/version; without a version the highest one")
      ->required();
}

CLI::Option* AddChoice(CLI::App& app, const std::string& flags, std::string& value,
                       const std::vector<std::string>& values, const std::string& description) {
  return OneOf(app.add_option(flags, value, description), values);
}

CLI::Option* OneOf(CLI::Option* option, const std::vector<std::string>& values) {
  return option->type_name(absl::StrJoin(values, "|"))->check([values](const std::string& text) {
    for (const std::string& allowed : values) {
      if (text == allowed) return std::string();
    }
    return absl::StrCat("expected ", absl::StrJoin(values, " or "), ", got ", text);
  });
}

// Without a description, which --help would append to the name of the value.
CLI::Validator Positive() { return CLI::Validator(CLI::PositiveNumber).description(""); }

void SetExample(CLI::App& app, const std::string& example) { app.footer(example); }

void Print(const std::string& text) { std::cout << text << std::flush; }

void Print(const Json& json) {
  // Class names and messages come from elsewhere and need not be valid UTF-8.
  std::cout << json.dump(2, ' ', false, Json::error_handler_t::replace) << std::endl;
}

absl::StatusOr<client::Model> GetReadyModel(const client::Client& client, const ModelName& name) {
  absl::StatusOr<client::Model> model = client.GetModel(name.name, name.version);
  if (!model.ok() || model->state == client::ModelState::kReady) return model;
  const std::string full_name = VersionedName(model->name, model->version);
  return absl::FailedPreconditionError(absl::StrCat(
      "model ", full_name, ": expected a loaded one (state ", StateName(client::ModelState::kReady),
      "), its state is ", StateName(model->state),
      model->state_message.empty() ? "" : absl::StrCat(" (", model->state_message, ")"),
      "; load it with: laplace models load ", full_name));
}

std::string VersionedName(const std::string& name, int64_t version) {
  return version > 0 ? absl::StrCat(name, "/", version) : name;
}

std::string ErrorText(const absl::Status& status) {
  std::string text = absl::StrCat("laplace: ", status.message(), " (",
                                  absl::StatusCodeToString(status.code()), ")\n");
  for (const client::FieldViolation& violation : client::FieldViolations(status)) {
    // Most servers repeat the field in the message; say it once.
    if (absl::StrContains(status.message(), violation.field)) continue;
    absl::StrAppend(&text, "  ", violation.field, ": ", violation.description, "\n");
  }
  return text;
}

}  // namespace laplace::cli
