#include "formats/atomic_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/file_error.h"

namespace laplaced {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxWriteBytes = size_t{1} << 30;

absl::Status ErrnoStatus(absl::string_view what, const std::string& path) {
  return FileError(errno, absl::StrCat("cannot ", what, " ", path));
}

absl::Status WriteAndSync(int fd, const std::vector<absl::string_view>& parts,
                          const std::string& path) {
  for (absl::string_view part : parts) {
    if (absl::Status status = WriteAll(fd, part, path); !status.ok()) return status;
  }
  return SyncFile(fd, path);
}

// rename(2) that never replaces. Some network file systems lack the flag; there the check before
// the rename leaves a gap in which rename(2) still refuses everything but an empty folder.
int RenameNoReplace(const std::string& from, const std::string& to) {
  if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return -1;
  struct stat info;
  if (lstat(to.c_str(), &info) == 0) {
    errno = EEXIST;
    return -1;
  }
  return rename(from.c_str(), to.c_str());
}

// Gives the synced file `from` the name `to`, durably; after an error the old file is there, if
// there was one. `from` is gone in the end, unless it cannot be removed.
absl::Status MoveIntoPlace(const std::string& from, const std::string& to) {
  struct stat info;
  if (lstat(to.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) {
    unlink(from.c_str());
    errno = EISDIR;
    return ErrnoStatus("replace", to);
  }
  // Exchanging keeps the old file until the new one is durable. Where a file system cannot, a
  // folder that cannot be synced leaves the new file in place, which a power cut may undo.
  const bool exchanged =
      renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0;
  const bool is_new = !exchanged && errno == ENOENT;
  const bool may_rename = is_new || errno == EINVAL || errno == ENOSYS;
  absl::Status status;
  if (!exchanged && (!may_rename || rename(from.c_str(), to.c_str()) != 0)) {
    status = ErrnoStatus("replace", to);
  } else {
    status = SyncFolder(ParentFolder(to));
    if (!status.ok() && exchanged) {
      renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE);
    } else if (!status.ok() && is_new) {
      rename(to.c_str(), from.c_str());
    }
  }
  if (exchanged || !status.ok()) unlink(from.c_str());
  return status;
}

// A new folder, durable, or none.
absl::Status MakeFolder(const std::string& folder) {
  if (mkdir(folder.c_str(), 0777) != 0) return ErrnoStatus("create folder", folder);
  absl::Status status = SyncFolder(ParentFolder(folder));
  if (!status.ok()) rmdir(folder.c_str());
  return status;
}

}  // namespace

uint64_t RandomBits() {
  uint64_t bits = 0;
  if (getrandom(&bits, sizeof bits, 0) == sizeof bits) return bits;
  // Without entropy a name need only be unique: process, count and clock are.
  static std::atomic<uint64_t> count{0};
  const uint64_t time = std::chrono::system_clock::now().time_since_epoch().count();
  return time * 0x9E3779B97F4A7C15u + (static_cast<uint64_t>(getpid()) << 32) + count++;
}

std::string TemporaryPath(const std::string& folder) {
  return absl::StrCat(folder, "/", kTemporaryPrefix, absl::Hex(RandomBits(), absl::kZeroPad16));
}

std::string ParentFolder(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

absl::Status WriteAll(int fd, absl::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = write(fd, bytes.data(), std::min(bytes.size(), kMaxWriteBytes));
    if (n < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus("write", path);
    }
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status SyncFile(int fd, const std::string& path) {
  return fsync(fd) == 0 ? absl::OkStatus() : ErrnoStatus("fsync", path);
}

absl::Status SyncFolder(const std::string& folder) {
  UniqueFd fd(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0) return ErrnoStatus("open folder", folder);
  // Some file systems have no fsync for folders and say so with EINVAL; there is nothing to add
  // then.
  if (fsync(fd.get()) != 0 && errno != EINVAL) return ErrnoStatus("fsync", folder);
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> CreateNewFile(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (fd.get() < 0) return ErrnoStatus("create", path);
  return fd;
}

absl::Status WriteNewFile(const std::string& path, const std::vector<absl::string_view>& parts) {
  absl::StatusOr<UniqueFd> fd = CreateNewFile(path);
  if (!fd.ok()) return fd.status();
  absl::Status status = WriteAndSync(fd->get(), parts, path);
  if (!status.ok()) unlink(path.c_str());
  return status;
}

absl::Status ReplaceFile(const std::string& path, const std::vector<absl::string_view>& parts) {
  const std::string temporary = TemporaryPath(ParentFolder(path));
  if (absl::Status status = WriteNewFile(temporary, parts); !status.ok()) return status;
  return MoveIntoPlace(temporary, path);
}

PendingFile::PendingFile(std::string path, std::string temporary, UniqueFd fd)
    : path_(std::move(path)), temporary_(std::move(temporary)), fd_(std::move(fd)) {}

PendingFile::~PendingFile() {
  if (fd_.get() >= 0) unlink(temporary_.c_str());
}

absl::StatusOr<std::unique_ptr<PendingFile>> PendingFile::Create(const std::string& path) {
  std::string temporary = TemporaryPath(ParentFolder(path));
  absl::StatusOr<UniqueFd> fd = CreateNewFile(temporary);
  // The temporary name would tell nobody what is wrong.
  if (!fd.ok()) {
    return absl::Status(fd.status().code(),
                        absl::StrCat("cannot write ", path, ": ", fd.status().message()));
  }
  return std::unique_ptr<PendingFile>(new PendingFile(path, std::move(temporary), *std::move(fd)));
}

absl::Status PendingFile::Write(absl::string_view bytes) {
  return WriteAll(fd_.get(), bytes, path_);
}

absl::Status PendingFile::Overwrite(int64_t offset, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n =
        pwrite(fd_.get(), bytes.data(), std::min(bytes.size(), kMaxWriteBytes), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus("write", path_);
    bytes.remove_prefix(static_cast<size_t>(n));
    offset += n;
  }
  return absl::OkStatus();
}

absl::Status PendingFile::Commit() {
  if (absl::Status status = SyncFile(fd_.get(), path_); !status.ok()) return status;
  fd_.Reset();
  return MoveIntoPlace(temporary_, path_);
}

absl::Status MakeFolders(const std::string& folder) {
  struct stat info;
  if (stat(folder.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) return absl::OkStatus();
  absl::Status status = MakeFolder(folder);
  if (absl::IsNotFound(status) && ParentFolder(folder) != folder) {
    status = MakeFolders(ParentFolder(folder));
    if (status.ok()) status = MakeFolder(folder);
  }
  // Somebody else may have made it in the meantime.
  const bool made = absl::IsAlreadyExists(status) && stat(folder.c_str(), &info) == 0;
  return made && S_ISDIR(info.st_mode) ? absl::OkStatus() : status;
}

absl::Status RenameFolder(const std::string& from, const std::string& to) {
  if (RenameNoReplace(from, to) != 0) {
    if (errno == EEXIST || errno == ENOTEMPTY || errno == ENOTDIR) {
      return absl::AlreadyExistsError(absl::StrCat(to, " exists already"));
    }
    return ErrnoStatus("rename a folder to", to);
  }
  absl::Status status = SyncFolder(ParentFolder(to));
  if (!status.ok()) RenameNoReplace(to, from);
  return status;
}

absl::Status RemoveAll(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) return FileError(error.value(), absl::StrCat("cannot remove ", path));
  return absl::OkStatus();
}

absl::Status RemoveTemporaries(const std::string& folder) {
  absl::StatusOr<std::vector<std::string>> names = ListFolder(folder);
  if (!names.ok()) return names.status();
  for (const std::string& name : *names) {
    if (!absl::StartsWith(name, kTemporaryPrefix)) continue;
    if (absl::Status status = RemoveAll(absl::StrCat(folder, "/", name)); !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

}  // namespace laplaced
