#include "server/registry/registry_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "formats/atomic_file.h"
#include "formats/file_error.h"

namespace laplaced {

absl::StatusOr<RegistryLock> RegistryLock::Take(const std::string& root) {
  if (absl::Status status = MakeFolders(root); !status.ok()) return status;
  const std::string path = absl::StrCat(root, "/.lock");
  constexpr int kFlags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
  UniqueFd fd(open(path.c_str(), kFlags, 0644));
  if (fd.get() < 0) {
    return FileError(
        errno, absl::StrCat("registry folder ", root, " cannot be written: cannot open ", path));
  }
  int failed;
  do {
    failed = flock(fd.get(), LOCK_EX | LOCK_NB);
  } while (failed != 0 && errno == EINTR);
  if (failed != 0 && errno == EWOULDBLOCK) {
    return absl::FailedPreconditionError(absl::StrCat(
        "registry: ", root, " is in use by another laplaced, which holds the lock on ", path,
        "; stop that server, give this one a folder of its own with --registry, "
        "or start it with --read-only"));
  }
  if (failed != 0) return FileError(errno, absl::StrCat("cannot lock ", path));
  return RegistryLock(std::move(fd));
}

}  // namespace laplaced
