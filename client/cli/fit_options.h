// Options of `laplace fit` that say what posterior is fitted, and how. Free functions; thread-safe.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "client/cli/context.h"
#include "client/cli/fit_words.h"
#include "client/cpp/fit_types.h"

namespace laplace::cli {

// Parsing fills `options`, which must outlive `app`.
void AddFitOptions(CLI::App& app, client::FitOptions& options);

// Whether every option that was given on the command line, and the seed, is what the posterior was
// fitted with.
bool SameOptions(const client::FitOptions& asked, const client::FitOptions& used);

// "2G", "512M", "64K" in powers of 1024, or a plain number of bytes. INVALID_ARGUMENT for anything
// else.
absl::StatusOr<int64_t> ParseBytes(const std::string& text);

// An option that takes one of the words of a table, which outlives `app`.
template <typename Enum, size_t kSize>
CLI::Option* AddEnum(CLI::App& app, const std::string& flag, const ChoiceWord<Enum> (&table)[kSize],
                     Enum& value, const std::string& description) {
  const auto set = [&value, &table](const std::string& word) { value = ChoiceOf(table, word); };
  return OneOf(app.add_option_function<std::string>(flag, set, description), WordsOf(table));
}

}  // namespace laplace::cli
