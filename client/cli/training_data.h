// Examples with targets, from files to the server: what `fit`, `posterior update` and `posterior
// calibrate` share.
//
// Errors: those of the files and of Client::EnsureDataset. Free functions; thread-safe.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/examples.h"
#include "client/cpp/client.h"

namespace laplace::cli {

// Adds `flag` for the file, `labels_flag` for targets in another one and `flag`-rows for a range.
void AddDataOptions(CLI::App& app, const std::string& flag, const std::string& labels_flag,
                    const std::string& what, bool required, ExampleFiles& files);

// Rows that are ready to be sent, and the id they will have.
struct PreparedData {
  Examples examples;
  std::string id;
};

// Reads rows and targets and gives them the model's shape. INVALID_ARGUMENT names `labels_flag` if
// there are no targets.
absl::StatusOr<PreparedData> PrepareData(const ExampleFiles& files, const client::Model& model,
                                         const std::string& labels_flag);

// The same where targets are not used: zeros stand in for those that are not there.
absl::StatusOr<PreparedData> PrepareInputs(const ExampleFiles& files, const client::Model& model);

// Sends the rows unless the server has them; `what` is for the progress line.
absl::Status SendData(const client::Client& client, const PreparedData& data,
                      const std::string& what);

}  // namespace laplace::cli
