// Flags that the commands of laplace-fit share: which model, which data. Free functions;
// thread-safe.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "server/offline/dataset_import.h"

namespace laplaced {

struct DataFlags {
  std::string data, rows;
};

// `flag` and `flag`-rows, into `flags`.
void AddDataFlags(CLI::App& app, const std::string& flag, const std::string& what, bool required,
                  DataFlags& flags);

// Into an id or files; INVALID_ARGUMENT names the flag.
absl::Status ReadData(const std::string& flag, const DataFlags& flags, std::string& id,
                      absl::optional<DataFiles>& files);

// NAME or NAME/VERSION; version 0 without one.
absl::Status ReadModel(const std::string& text, std::string& model, int64_t& version);

// A choice whose words are those of the API, with '-' for '_'.
void AddWord(CLI::App& app, const std::string& flag, std::string& value,
             std::vector<std::string> words, const std::string& description,
             const std::string& group);

}  // namespace laplaced
