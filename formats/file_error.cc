#include "formats/file_error.h"

#include <errno.h>

#include "absl/strings/str_cat.h"

namespace laplaced {
namespace {

absl::StatusCode CodeOf(int error, absl::StatusCode usual) {
  // Usual of EACCES, EPERM and EROFS.
  if (error == ELOOP || usual == absl::StatusCode::kPermissionDenied) {
    return absl::StatusCode::kFailedPrecondition;
  }
  // Usual of EIO.
  if (error == ESTALE || usual == absl::StatusCode::kUnknown) return absl::StatusCode::kUnavailable;
  return usual;
}

// What to do; empty where the message says it all.
const char* AdviceFor(int error) {
  switch (error) {
    case ENOSPC:
      return "; free space there and try again";
    case EDQUOT:
      return "; free space there, or raise the quota, and try again";
    case EROFS:
      return "; make it writable and try again";
    case EACCES:
    case EPERM:
      return "; give the user that this program runs as the right to it and try again";
    case EMFILE:
    case ENFILE:
      return "; raise the limit of open files (ulimit -n)";
    case EIO:
    case ESTALE:
      return "; the disk, or the network behind it, fails: the kernel's log says more";
    default:
      return "";
  }
}

}  // namespace

absl::Status FileError(int error, absl::string_view what) {
  const absl::Status plain = absl::ErrnoToStatus(error, what);
  return absl::Status(CodeOf(error, plain.code()), absl::StrCat(plain.message(), AdviceFor(error)));
}

}  // namespace laplaced
