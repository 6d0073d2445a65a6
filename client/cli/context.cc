#include "client/cli/context.h"

#include <algorithm>
#include <iostream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/json_output.h"
#include "client/cpp/errors.h"

namespace laplace::cli {

client::ClientOptions Context::Options() const {
  client::ClientOptions options;
  if (timeout_seconds > 0) {
    options.timeout = options.load_timeout = options.predict_timeout =
        absl::Seconds(timeout_seconds);
    options.stream_timeout = std::max(options.stream_timeout, 4 * options.predict_timeout);
  }
  return options;
}

absl::StatusOr<std::unique_ptr<client::Client>> Context::Connect() const {
  return client::Client::Connect(server, Options());
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
