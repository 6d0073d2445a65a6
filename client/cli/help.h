// How --help looks: what the verb does, usage, arguments, options by group and one example, at most
// 100 columns wide.
//
// Written here rather than left to CLI11 so that the text is the same with every version of it.
// Thread-safe.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace laplace::cli {

// Fits CLI::App::formatter_fn.
std::string HelpText(const CLI::App* app, std::string name, CLI::AppFormatMode mode);

}  // namespace laplace::cli
