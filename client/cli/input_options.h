// Options that `predict` and `score` share: which rows of which file, in calls of what size. A
// plain value.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/context.h"
#include "client/cli/examples.h"
#include "client/cpp/client.h"

namespace laplace::cli {

struct InputOptions {
  ModelName model;
  ExampleFiles files;
  int64_t limit = 0;  // 0: all rows
  int64_t batch_size = 0;
  std::vector<std::string> ood_scores;
  std::string csv_type;  // "float", "uint8"; empty: not said
};

// `kinds` says what --input may be.
void AddInputOptions(CLI::App& app, const std::string& kinds, InputOptions& options);

// An option that takes a range of rows.
CLI::Option* AddRows(CLI::App& app, const std::string& flag, RowRange& rows,
                     const std::string& description);

// Reads the rows and gives them the model's shape.
absl::StatusOr<Examples> ReadInput(const InputOptions& options, const client::Model& model);

}  // namespace laplace::cli
