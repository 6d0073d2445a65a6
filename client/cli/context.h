// What all verbs of the command line share: where the server is, how to print, and the command that
// was chosen.
//
// One Context lives in main(). Parsing fills it; the chosen verb leaves its work in `command`,
// which runs after parsing, so that usage errors never reach the server. Not synchronised.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cpp/client.h"

namespace laplace::cli {

using Json = nlohmann::ordered_json;

// Exit codes, as --help documents them.
inline constexpr int kExitOk = 0;
inline constexpr int kExitError = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitCheckFailed = 3;

struct Context {
  std::string server = "127.0.0.1:8033";
  bool json = false;
  double timeout_seconds = 0;  // 0: the client's own defaults
  client::TlsOptions tls;
  std::string token_file;
  std::string token;        // of the environment
  std::string config_file;  // empty: the default one, if there is one
  bool needs_server = true;
  std::function<absl::Status()> command;
  int exit_code = kExitOk;  // of a command that returns OK

  // The client's defaults but for --timeout, --tls and --token-file, whose file has been read.
  absl::StatusOr<client::ClientOptions> Options() const;
  absl::StatusOr<std::unique_ptr<client::Client>> Connect() const;
};

// "name" or "name/version".
struct ModelName {
  std::string name;
  int64_t version = 0;
};

// Adds the positional MODEL.
CLI::Option* AddModelArgument(CLI::App& app, ModelName& model);

// Adds an option that takes one of `values`, shown in --help in this order.
CLI::Option* AddChoice(CLI::App& app, const std::string& flags, std::string& value,
                       const std::vector<std::string>& values, const std::string& description);

// Makes an option take one of `values`.
CLI::Option* OneOf(CLI::Option* option, const std::vector<std::string>& values);

// Accepts numbers above zero.
CLI::Validator Positive();

// An example for --help, after everything else.
void SetExample(CLI::App& app, const std::string& example);

// Prints to standard output.
void Print(const std::string& text);
void Print(const Json& json);

// The model, which must be loaded: FAILED_PRECONDITION says what state it is in instead and how to
// load it. Otherwise the errors of Client::GetModel.
absl::StatusOr<client::Model> GetReadyModel(const client::Client& client, const ModelName& name);

// "name/version".
std::string VersionedName(const std::string& name, int64_t version);

// Message, code, and what the server said about fields; ends with a line break.
std::string ErrorText(const absl::Status& status);

// Each adds one verb with its subcommands.
void AddModelsVerb(CLI::App& app, Context& context);
void AddFitVerb(CLI::App& app, Context& context);
void AddNewtonStepVerb(CLI::App& app, Context& context);
void AddPosteriorVerb(CLI::App& app, Context& context);
void AddOperationsVerb(CLI::App& app, Context& context);
void AddPredictVerb(CLI::App& app, Context& context);
void AddScoreVerb(CLI::App& app, Context& context);
void AddEvaluateVerb(CLI::App& app, Context& context);
void AddHealthVerb(CLI::App& app, Context& context);
void AddTokenVerb(CLI::App& app, Context& context);
void AddBenchVerb(CLI::App& app, Context& context);
void AddCompletionVerb(CLI::App& app, Context& context);

// The options of all verbs that say how to reach the server.
void AddConnectionOptions(CLI::App& app, Context& context);

}  // namespace laplace::cli
