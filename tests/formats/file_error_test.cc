#include "formats/file_error.h"

#include <errno.h>

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace laplaced {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(FileErrorTest, TellsAFullDiskFromAForbiddenOneAndFromABrokenOne) {
  struct Case {
    int error;
    absl::StatusCode code;
    const char* advice;
  };
  for (const Case& c : {
           Case{ENOENT, absl::StatusCode::kNotFound, ""},
           Case{EEXIST, absl::StatusCode::kAlreadyExists, ""},
           Case{ENOSPC, absl::StatusCode::kResourceExhausted, "free space"},
           Case{EDQUOT, absl::StatusCode::kResourceExhausted, "quota"},
           Case{EMFILE, absl::StatusCode::kResourceExhausted, "ulimit -n"},
           Case{ENFILE, absl::StatusCode::kResourceExhausted, "ulimit -n"},
           Case{ENOMEM, absl::StatusCode::kResourceExhausted, ""},
           Case{EACCES, absl::StatusCode::kFailedPrecondition, "the right to it"},
           Case{EPERM, absl::StatusCode::kFailedPrecondition, "the right to it"},
           Case{EROFS, absl::StatusCode::kFailedPrecondition, "make it writable"},
           Case{ELOOP, absl::StatusCode::kFailedPrecondition, ""},
           Case{EIO, absl::StatusCode::kUnavailable, "kernel's log"},
           Case{ESTALE, absl::StatusCode::kUnavailable, "kernel's log"},
       }) {
    const absl::Status status = FileError(c.error, "cannot write /data/a");
    const std::string message(status.message());
    EXPECT_EQ(status.code(), c.code) << message;
    EXPECT_THAT(message, StartsWith("cannot write /data/a: "));
    EXPECT_THAT(message, HasSubstr(c.advice));
  }
}

TEST(FileErrorTest, IsNeverUnknownNorInternalNorAboutARole) {
  for (int error = 1; error < 134; ++error) {
    const absl::StatusCode code = FileError(error, "x").code();
    EXPECT_NE(code, absl::StatusCode::kUnknown) << error;
    EXPECT_NE(code, absl::StatusCode::kInternal) << error;
    EXPECT_NE(code, absl::StatusCode::kPermissionDenied) << error;
  }
}

}  // namespace
}  // namespace laplaced
