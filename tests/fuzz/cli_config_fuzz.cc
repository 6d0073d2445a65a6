// The configuration file of the command line.
#include <CLI/CLI.hpp>

#include "client/cli/config_file.h"
#include "tests/fuzz/heap_bound.h"
#include "tests/fuzz/target.h"

namespace laplaced::fuzz {
namespace {

// A part of the 64 KiB that the program reads.
constexpr size_t kMaxBytes = 4096;

// A command line that says nothing.
const CLI::App& Silent() {
  static const CLI::App* const app = [] {
    auto* silent = new CLI::App;
    static std::string text;
    for (const char* flag : {"--server", "--token-file", "--ca-cert", "--client-cert",
                             "--client-key", "--tls-server-name", "--tls"}) {
      silent->add_option(flag, text);
    }
    return silent;
  }();
  return *app;
}

void Run(absl::string_view input) {
  laplace::cli::Context context;
  context.config_file = WriteScratch("config.json", input);
  Silent();
  const HeapBound bound(input.size(), 64, 64 << 10);
  const absl::Status status = laplace::cli::ApplyConfigFile(Silent(), context);
  RequireStatus(status, {absl::StatusCode::kInvalidArgument});
  Require(!status.ok() || !context.server.empty(), "no server is left");
}

std::vector<std::string> Seeds() {
  return {R"({"server": "laplace.example.org:8033", "ca_cert": "ca.pem", "token_file": "/t"})",
          R"({"tls": true, "client_cert": "c", "client_key": "k", "tls_server_name": "n"})", "{}",
          R"({"server": [["deep"]]})"};
}

LAPLACED_FUZZ_TARGET(cli_config, kMaxBytes, Run, Seeds);

}  // namespace
}  // namespace laplaced::fuzz
