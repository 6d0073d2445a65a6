// The command line of "laplace-fit newton-step". Free functions; thread-safe.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "server/offline/dataset_import.h"
#include "server/serving/newton_request.h"

namespace laplaced {

struct NewtonCommand {
  std::string registry;
  NewtonRequest request;  // data sets are empty where files are named
  absl::optional<DataFiles> training, held_out;
  int compute_threads = 0;
  bool allow_slow_blas = false;
};

struct ParsedNewtonCommand {
  absl::optional<NewtonCommand> command;
  std::string output;  // instead of it: --help
};

// Whether the arguments, the program's name first, are those of this command.
bool IsNewtonCommand(int argc, const char* const* argv);

// REQUIRES: IsNewtonCommand. INVALID_ARGUMENT says what is wrong with which flag.
absl::StatusOr<ParsedNewtonCommand> ParseNewtonCommand(int argc, const char* const* argv);

}  // namespace laplaced
