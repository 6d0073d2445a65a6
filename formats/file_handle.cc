#include "formats/file_handle.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <new>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "formats/file_error.h"

namespace laplaced {
namespace {

// Linux moves at most 0x7ffff000 bytes in one call.
constexpr size_t kMaxReadBytes = size_t{1} << 30;

}  // namespace

void UniqueFd::Reset() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

absl::StatusOr<OpenedFile> OpenRegularFile(const std::string& path) {
  OpenedFile file;
  file.fd = UniqueFd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (file.fd.get() < 0) {
    const int error = errno;
    const std::string message = absl::StrCat("cannot open ", path);
    if (error == ENOTDIR) return absl::NotFoundError(message);
    return FileError(error, message);
  }
  struct stat info;
  if (fstat(file.fd.get(), &info) != 0) {
    return FileError(errno, absl::StrCat("cannot inspect ", path));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  }
  file.size = info.st_size;
  return file;
}

absl::Status ReadExactly(int fd, char* out, size_t size, const std::string& path) {
  size_t done = 0;
  while (done < size) {
    const ssize_t n = read(fd, out + done, std::min(size - done, kMaxReadBytes));
    if (n < 0) {
      if (errno == EINTR) continue;
      return FileError(errno, absl::StrCat("cannot read ", path));
    }
    if (n == 0) {
      return absl::DataLossError(
          absl::StrCat(path, " ended ", size - done, " bytes early: it changed while it was read"));
    }
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadWholeFile(const std::string& path, int64_t max_bytes) {
  absl::StatusOr<OpenedFile> file = OpenRegularFile(path);
  if (!file.ok()) return file.status();
  if (file->size > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", file->size, " bytes, expected at most ", max_bytes));
  }
  std::string contents;
  try {
    contents.resize(static_cast<size_t>(file->size));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrCat("not enough memory to read ", path, " of ", file->size, " bytes"));
  }
  absl::Status status = ReadExactly(file->fd.get(), contents.data(), contents.size(), path);
  if (!status.ok()) return status;
  return contents;
}

absl::StatusOr<std::vector<std::string>> ListFolder(const std::string& folder) {
  namespace fs = std::filesystem;
  std::vector<std::string> names;
  std::error_code error;
  fs::directory_iterator entry(folder, error);
  for (const fs::directory_iterator end; !error && entry != end; entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    return FileError(error.value(), absl::StrCat("cannot list ", folder));
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace laplaced
