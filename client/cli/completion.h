// Scripts that complete the command line in a shell, made from the tree of verbs and options as
// --help is, so that they cannot fall behind it. Thread-safe.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace laplace::cli {

// Completes verbs, flags, the values of flags that take one of a few words, and file names.
std::string BashCompletion(const CLI::App& app);

// The same, by way of zsh's bashcompinit.
std::string ZshCompletion(const CLI::App& app);

}  // namespace laplace::cli
