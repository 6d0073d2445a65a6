// The right to write to a registry folder: an exclusive flock on `<root>/.lock`.
//
// Whoever recovers or writes takes it first, because a second writer would remove the temporary
// files of the first and call its running operations failed. The kernel gives the lock back when
// the process ends, however it ends, so a lock file that is left behind means nothing. The file
// itself stays. A value that is moved, not copied; the lock lasts as long as the value.
#pragma once

#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "formats/file_handle.h"

namespace laplaced {

class RegistryLock {
 public:
  // Creates the folder and the file if they are missing, and does not wait. Errors:
  // FAILED_PRECONDITION if the lock is held elsewhere (nothing was changed then), otherwise what
  // errno says, with the path.
  static absl::StatusOr<RegistryLock> Take(const std::string& root);

 private:
  explicit RegistryLock(UniqueFd fd) : fd_(std::move(fd)) {}

  UniqueFd fd_;
};

}  // namespace laplaced
