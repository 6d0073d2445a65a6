// The states of Lanczos on disk, from which a fit that died goes on.
//
//   <folder>/lanczos-<set>.json                               which step is whole, and of which fit
//   <folder>/lanczos-<set>-<products>/state.safetensors       written by rank 0
//   <folder>/lanczos-<set>-<products>/basis-<rank>.safetensors  every rank's coordinates
//
// All ranks must see the same folder. The json is replaced when all files of a step are on disk, so
// that whenever the processes die, a whole step is there, if there ever was one; the step before is
// then removed. A fit may go on with another number of ranks, and with other memory. A step that
// cannot be written (disk full) is a warning and not the end of the fit. Belongs to one fit and its
// thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "server/linalg/lanczos.h"
#include "server/linalg/ranks.h"

namespace laplaced {

class LanczosCheckpoint {
 public:
  struct Options {
    std::string folder;       // made when it is needed
    std::string fingerprint;  // what makes this fit another one than others, for people too
    std::chrono::duration<double> interval{300};  // between steps; 0: every product
    bool resume = false;                          // look for a step of an earlier process
    // Hears what a user should know.
    std::function<void(const std::string& message)> tell;
  };

  explicit LanczosCheckpoint(Options options) : options_(std::move(options)) {}

  // The last whole step of run number `set`, if there is one and `resume` is on.
  // FAILED_PRECONDITION if it belongs to another fit; DATA_LOSS if it is damaged; errors of the
  // disk.
  absl::StatusOr<absl::optional<LanczosState>> Find(uint64_t set, const Ranks& ranks);

  // Writes a step if it is time. Errors are those of the ranks.
  absl::Status Keep(uint64_t set, const LanczosState& state, const Ranks& ranks);

  // After the fit has been saved: by rank 0.
  void Remove() const;

 private:
  struct Step;
  absl::StatusOr<absl::optional<Step>> ReadStep(uint64_t set) const;
  absl::StatusOr<LanczosState> ReadState(uint64_t set, const Step& step, Share mine) const;
  absl::Status WriteFiles(const std::string& folder, const LanczosState& state,
                          const Ranks& ranks) const;
  std::string StepFolder(uint64_t set, int64_t products) const;
  std::string StepFile(uint64_t set) const;

  const Options options_;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
  absl::optional<std::string> before_;  // folder of the step that the next one replaces
};

}  // namespace laplaced
