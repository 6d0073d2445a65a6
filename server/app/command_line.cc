#include "server/app/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "formats/file_handle.h"
#include "server/app/config.h"

namespace laplaced {
namespace {

namespace pb = google::protobuf;
using laplace::v1::ServerConfig;

constexpr int64_t kMaxConfigFileBytes = 1 << 20;

constexpr char kAbout[] =
    "Serves PyTorch networks with Laplace posteriors: predictions with uncertainty and\n"
    "out-of-distribution scores over gRPC.";

constexpr char kPrecedence[] =
    "Each setting may also stand in the JSON file of --config, under its name with '_', or in the\n"
    "environment as LAPLACED_<NAME> in capitals. A flag wins over the environment, the "
    "environment\n"
    "over the file. Flags may be written with '_' for '-' too.\n\n"
    "Example: laplaced --registry /var/lib/laplaced --listen 0.0.0.0:8033\n";

struct SettingHelp {
  const char* value;
  const char* text;
};

const std::map<std::string, SettingHelp>& Help() {
  static const auto* help = new std::map<std::string, SettingHelp>{
      {"registry",
       {"DIR", "Folder with models, posteriors, data sets and operations; created if missing"}},
      {"listen", {"ADDRESS", "host:port or unix:path to listen on; port 0 takes a free one"}},
      {"address_file", {"FILE", "File that gets the bound address once calls can be made"}},
      {"load",
       {"MODELS",
        "Models to serve: none, or a list of NAME (highest version), NAME/3, NAME/latest:2 and "
        "NAME/all, where the name 'all' is every model"}},
      {"compute_threads", {"N", "Threads for linear algebra; 0 takes what the CPU quota allows"}},
      {"max_queue", {"N", "Requests that may wait for compute before more are refused"}},
      {"max_batch_size", {"N", "Examples in one request"}},
      {"max_message_bytes", {"BYTES", "Size of one gRPC message"}},
      {"max_dataset_bytes", {"BYTES", "Size of one uploaded data set"}},
      {"max_concurrent_fits", {"N", "Fits at the same time"}},
      {"drain_seconds", {"SECONDS", "Time that calls in progress get after SIGTERM"}},
      {"log_level", {"LEVEL", "debug, info, warning or error"}},
      {"allow_slow_blas", {"", "Start although LibTorch is served by a BLAS other than OpenBLAS"}},
      {"read_only", {"", "Change nothing in the registry; refuse fits, uploads and activation"}},
      {"http_listen",
       {"ADDRESS", "host:port for /metrics and health probes over HTTP; off opens none"}},
      {"max_batch_rows", {"N", "Rows that one computation takes together, 1 to 64"}},
      {"max_batch_delay_ms", {"MS", "Time a row may wait for others to join it"}},
      {"max_queue_delay_ms",
       {"MS", "Refuse interactive requests that would wait longer for compute; 0 never does"}},
      {"tls_cert", {"FILE", "Certificate chain, PEM; with --tls-key the port speaks TLS only"}},
      {"tls_key", {"FILE", "Private key of the certificate, PEM"}},
      {"tls_client_ca", {"FILE", "Authorities of the client certificates that are asked for, PEM"}},
      {"credentials_refresh_seconds", {"SECONDS", "Time between looks at TLS and token files"}},
      {"tokens", {"FILE", "JSON file of the bearer tokens that callers must show"}},
      {"reflection", {"", "Answer gRPC server reflection, which asks for no token (default true)"}},
      {"max_concurrent_streams", {"N", "Calls at the same time on one connection"}},
      {"log_format", {"FORM", "text, json, or auto: text on a terminal, json elsewhere"}},
      {"drain_delay_seconds",
       {"SECONDS", "Time after SIGTERM in which calls are still taken, health says NOT_SERVING"}},
      {"registry_poll_seconds",
       {"SECONDS", "Time between looks at the registry for new versions; 0 never looks again"}},
      {"max_model_bytes",
       {"BYTES", "Size of all loaded models and their posteriors together; 0 has no limit"}},
      {"max_datasets_bytes", {"BYTES", "Size of all uploaded data sets; 0 has no limit"}},
      {"model_name",
       {"NAME", "Serve the only model of the registry, or of a plain model folder, by this name"}},
  };
  return *help;
}

std::string FlagName(const pb::FieldDescriptor& field) {
  return absl::StrCat("--", absl::StrReplaceAll(field.name(), {{"_", "-"}}));
}

// KServe and others write --model_name.
std::string WithDashes(absl::string_view argument) {
  if (!absl::StartsWith(argument, "--")) return std::string(argument);
  const size_t end = std::min(argument.find('='), argument.size());
  return absl::StrCat(absl::StrReplaceAll(argument.substr(0, end), {{"_", "-"}}),
                      argument.substr(end));
}

std::string VariableName(const pb::FieldDescriptor& field) {
  return absl::StrCat("LAPLACED_", absl::AsciiStrToUpper(field.name()));
}

std::string DefaultText(const pb::FieldDescriptor& field) {
  const ServerConfig defaults = DefaultConfig();
  const pb::Reflection& reflection = *defaults.GetReflection();
  switch (field.cpp_type()) {
    case pb::FieldDescriptor::CPPTYPE_STRING:
      return reflection.GetString(defaults, &field);
    case pb::FieldDescriptor::CPPTYPE_INT32:
      return absl::StrCat(reflection.GetInt32(defaults, &field));
    case pb::FieldDescriptor::CPPTYPE_INT64:
      return absl::StrCat(reflection.GetInt64(defaults, &field));
    case pb::FieldDescriptor::CPPTYPE_DOUBLE:
      return absl::StrCat(reflection.GetDouble(defaults, &field));
    default:
      return "";
  }
}

// The command's flags; `texts` receives what was given, by field number.
class Flags {
 public:
  Flags() : app_(kAbout, "laplaced") {
    const pb::Descriptor& settings = *ServerConfig::descriptor();
    for (int i = 0; i < settings.field_count(); ++i) AddSetting(*settings.field(i));
    app_.add_option("--config", config_file, "JSON file with settings")->type_name("FILE");
    app_.add_flag("--print-config", print_config,
                  "Print the settings as they would be used, and exit");
    app_.add_flag("--check-config", check_config, "Check the settings, and exit");
    app_.add_flag("--version", version, "Print the version, and exit");
    app_.footer(kPrecedence);
  }

  // `output` is set, and nothing else, if help was asked for.
  absl::Status Parse(int argc, const char* const* argv, std::string* output) {
    try {
      // The last one first, which is what CLI11 asks for.
      std::vector<std::string> arguments;
      for (int i = argc - 1; i > 0; --i) arguments.push_back(WithDashes(argv[i]));
      app_.parse(std::move(arguments));
    } catch (const CLI::CallForHelp&) {
      *output = app_.help();
    } catch (const CLI::ParseError& error) {
      return absl::InvalidArgumentError(
          absl::StrCat("command line: ", error.what(), "; --help lists all flags"));
    }
    return absl::OkStatus();
  }

  // Text of a setting, or null if its flag was not given.
  const std::string* Find(const pb::FieldDescriptor& field) const {
    return options_.at(field.name())->count() > 0 ? &texts_.at(field.name()) : nullptr;
  }

  std::string config_file;
  bool print_config = false;
  bool check_config = false;
  bool version = false;

 private:
  void AddSetting(const pb::FieldDescriptor& field) {
    const auto found = Help().find(field.name());
    const SettingHelp help = found == Help().end() ? SettingHelp{"VALUE", ""} : found->second;
    std::string text = help.text;
    const std::string standard = DefaultText(field);
    if (!standard.empty()) absl::StrAppend(&text, " (default ", standard, ")");
    std::string& target = texts_[field.name()];
    if (field.cpp_type() == pb::FieldDescriptor::CPPTYPE_BOOL) {
      options_[field.name()] = app_.add_flag(FlagName(field), target, text);
    } else {
      options_[field.name()] =
          app_.add_option(FlagName(field), target, text)->type_name(help.value);
    }
  }

  CLI::App app_;
  std::map<std::string, std::string> texts_;  // by field name
  std::map<std::string, CLI::Option*> options_;
};

absl::Status MergeFile(const std::string& path, ServerConfig* config) {
  const absl::StatusOr<std::string> json = ReadWholeFile(path, kMaxConfigFileBytes);
  if (!json.ok()) {
    return absl::Status(json.status().code(), absl::StrCat("--config: ", json.status().message()));
  }
  return MergeJson(*json, absl::StrCat("config file ", path), config);
}

absl::Status Merge(const Flags& flags, const Environment& environment, ServerConfig* config) {
  if (!flags.config_file.empty()) {
    const absl::Status status = MergeFile(flags.config_file, config);
    if (!status.ok()) return status;
  }
  const pb::Descriptor& settings = *ServerConfig::descriptor();
  for (int i = 0; i < settings.field_count(); ++i) {
    const pb::FieldDescriptor& field = *settings.field(i);
    const std::string variable = VariableName(field);
    absl::Status status;
    if (const char* text = environment(variable)) {
      status = SetField(field, text, absl::StrCat("environment variable ", variable), config);
    }
    if (!status.ok()) return status;
    if (const std::string* text = flags.Find(field)) {
      status = SetField(field, *text, FlagName(field), config);
    }
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv,
                                             const Environment& environment) {
  CommandLine result;
  result.config = DefaultConfig();
  Flags flags;
  absl::Status status = flags.Parse(argc, argv, &result.output);
  if (!status.ok()) return status;
  if (!result.output.empty()) return result;
  if (flags.version) {
    result.output = "laplaced " LAPLACED_VERSION "\n";
    return result;
  }
  status = Merge(flags, environment, &result.config);
  if (!status.ok()) return status;
  if (flags.print_config) {
    result.output = ConfigJson(result.config);
    return result;
  }
  status = ValidateConfig(result.config);
  if (!status.ok()) return status;
  if (flags.check_config) {
    result.output = "the settings are valid\n";
    return result;
  }
  result.serve = true;
  return result;
}

}  // namespace laplaced
