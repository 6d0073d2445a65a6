// Where the command line finds its server when neither flag nor environment says so: a JSON object
// with some of the keys
//
//   {"server": "HOST:PORT", "token_file": FILE, "tls": true, "ca_cert": FILE, "client_cert": FILE,
//    "client_key": FILE, "tls_server_name": NAME}
//
// Each is the flag of the same name. Files that are not absolute lie beside the configuration file.
// Free functions; they read the environment.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "absl/status/status.h"
#include "client/cli/context.h"

namespace laplace::cli {

// laplace/config.json in XDG_CONFIG_HOME, or else in ~/.config; empty if the environment names
// neither.
std::string DefaultConfigFile();

// Fills what neither command line nor environment has said; `app` is the parsed root. The file is
// context.config_file, which must exist, or else the default one, which may be missing.
// INVALID_ARGUMENT names the file and the key, other errors are those of reading.
absl::Status ApplyConfigFile(const CLI::App& app, Context& context);

}  // namespace laplace::cli
