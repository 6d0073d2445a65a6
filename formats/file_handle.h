// Reading files whose path or content came from somebody else.
//
// Only regular files are opened, and without blocking, so that a named pipe or a device in the
// wrong place cannot hang the process. A path in a message is shown as it was given. Errors:
// NOT_FOUND (no such file), INVALID_ARGUMENT (not a regular file, larger than the limit), DATA_LOSS
// (the file shrank while it was read), otherwise what errno says. UniqueFd is a value that is
// moved, not copied; nothing here is synchronised.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace laplaced {

// Owns a file descriptor; -1 is none.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) {
      Reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~UniqueFd() { Reset(); }

  int get() const { return fd_; }
  // Gives the descriptor away.
  int Release() { return std::exchange(fd_, -1); }
  void Reset();

 private:
  int fd_ = -1;
};

struct OpenedFile {
  UniqueFd fd;
  int64_t size = 0;  // bytes
};

absl::StatusOr<OpenedFile> OpenRegularFile(const std::string& path);

// Reads exactly `size` bytes from the current position; `path` is for the message.
absl::Status ReadExactly(int fd, char* out, size_t size, const std::string& path);

absl::StatusOr<std::string> ReadWholeFile(const std::string& path, int64_t max_bytes);

// Names of everything in a folder, hidden entries included, sorted. A missing folder has none.
absl::StatusOr<std::vector<std::string>> ListFolder(const std::string& folder);

}  // namespace laplaced
