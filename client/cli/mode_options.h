// Options that `predict` and `score` share: how variances are computed. A plain value.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "client/cli/context.h"
#include "client/cpp/types.h"

namespace laplace::cli {

struct ModeOptions {
  std::string mode;  // empty: not given
  int32_t samples = 0;
  uint64_t seed = 0;
};

// `modes` are the names that the verb takes.
void AddModeOptions(CLI::App& app, const std::vector<std::string>& modes, ModeOptions& options);

client::VarianceMode ToVarianceMode(const std::string& name);
// "none" if no variance was computed.
const char* VarianceModeName(client::VarianceMode mode);

}  // namespace laplace::cli
