// The command line of laplace-fit, but for its command newton-step (newton_command.h): what to fit,
// on which data, how. Free functions; thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "server/offline/dataset_import.h"
#include "server/serving/fit_service.h"

namespace laplaced {

struct FitCommand {
  std::string registry;
  FitRequest request;  // data sets are empty where files are named
  absl::optional<DataFiles> training, validation;
  bool resume = false;
  std::string checkpoint_folder;    // empty: <registry>/checkpoints/<model>-<version>
  double checkpoint_seconds = 300;  // 0: none
  int compute_threads = 0;
  double rank_timeout_seconds = 300;
  double join_timeout_seconds = 60;
  bool allow_slow_blas = false;
};

struct ParsedFitCommand {
  absl::optional<FitCommand> command;
  std::string output;  // instead of it: --help, --version
};

// INVALID_ARGUMENT says what is wrong with which flag.
absl::StatusOr<ParsedFitCommand> ParseFitCommand(int argc, const char* const* argv);

}  // namespace laplaced
