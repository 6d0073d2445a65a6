// What the `laplaced` command was asked to do: settings from defaults, JSON file, environment and
// flags, in this order, the later ones winning.
//
// Variables of the environment are LAPLACED_<FIELD>; others with that prefix are left alone,
// because Kubernetes sets LAPLACED_SERVICE_HOST and the like for a service of that name. Free
// functions on values; thread-safe.
#pragma once

#include <laplace/v1/config.pb.h>

#include <functional>
#include <string>

#include "absl/status/statusor.h"

namespace laplaced {

struct CommandLine {
  bool serve = false;  // otherwise `output` is all there is to do
  std::string output;  // for standard output: help, version, config
  laplace::v1::ServerConfig config;
};

// Value of a variable, or null.
using Environment = std::function<const char*(const std::string& name)>;

// Errors: INVALID_ARGUMENT for unknown flags and for settings that are malformed or contradictory;
// NOT_FOUND and the like for a config file that cannot be read.
absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv,
                                             const Environment& environment);

}  // namespace laplaced
