// Errors of the file system as statuses; this is the one place that gives errno a code.
//
// The code says what kind of trouble it is, as a caller of the server needs to know:
//   NOT_FOUND, ALREADY_EXISTS  there is no such file, or there is one
//   RESOURCE_EXHAUSTED         a disk or quota is full, too many files are open, memory is short
//   FAILED_PRECONDITION        a file system that may only be read, a missing right to a file, a
//                              loop of links: somebody has to change that first. Never
//                              PERMISSION_DENIED, which is about the caller's role
//   UNAVAILABLE                the device or the network behind it fails (EIO, ESTALE and all that
//                              is not listed)
// and what absl::ErrnoToStatus says for the rest. Never UNKNOWN or INTERNAL. Free functions.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace laplaced {

// "cannot write /data/a: No space left on device; free space there and try again". `what` names the
// file. REQUIRES: error > 0.
absl::Status FileError(int error, absl::string_view what);

}  // namespace laplaced
