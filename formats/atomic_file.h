// Writing files and folders so that a reader, also one after a power cut, sees all of them or
// nothing.
//
// The recipe is always the same: write under a temporary name in the same folder, fsync, rename,
// fsync the folder. Temporary names start with kTemporaryPrefix; whatever carries such a name is a
// leftover of a killed process and may be removed when no writer runs. A failed call leaves the old
// state in place, also if its last fsync failed, and no temporary file that can be removed. Errors
// are FileError's (file_error.h), with the path in the message. Free functions; calls for different
// paths may run at the same time, and of two that replace the same file one wins as a whole.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "formats/file_handle.h"

namespace laplaced {

inline constexpr char kTemporaryPrefix[] = ".tmp-";

// 64 bits from the operating system.
uint64_t RandomBits();

// A fresh path `<folder>/.tmp-<random>`; nothing is created.
std::string TemporaryPath(const std::string& folder);

// The folder that holds `path`; "." if the path has no slash.
std::string ParentFolder(const std::string& path);

absl::Status WriteAll(int fd, absl::string_view bytes, const std::string& path);

// fsync of an open file, and of a folder's list of names.
absl::Status SyncFile(int fd, const std::string& path);
absl::Status SyncFolder(const std::string& folder);

// Opens a file that must not exist (ALREADY_EXISTS) for writing.
absl::StatusOr<UniqueFd> CreateNewFile(const std::string& path);

// Creates `path`, which must not exist (ALREADY_EXISTS), holding `parts` one after the other, and
// fsyncs it; the caller syncs the folder.
absl::Status WriteNewFile(const std::string& path, const std::vector<absl::string_view>& parts);

// Replaces or creates `path`; durable when it returns.
absl::Status ReplaceFile(const std::string& path, const std::vector<absl::string_view>& parts);

// A file that is written piece by piece, under a temporary name, and appears as a whole when it is
// committed; without that the destructor removes it. Belongs to one thread.
class PendingFile {
 public:
  // For `path`, which is replaced or created in the end.
  static absl::StatusOr<std::unique_ptr<PendingFile>> Create(const std::string& path);
  ~PendingFile();

  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;

  absl::Status Write(absl::string_view bytes);
  // Replaces bytes that were written before.
  absl::Status Overwrite(int64_t offset, absl::string_view bytes);
  // The file is durable when this returns. Once, and nothing after it.
  absl::Status Commit();

  const std::string& temporary_path() const { return temporary_; }

 private:
  PendingFile(std::string path, std::string temporary, UniqueFd fd);

  const std::string path_;
  const std::string temporary_;
  UniqueFd fd_;
};

// Creates `folder` and its missing parents, each durable.
absl::Status MakeFolders(const std::string& folder);

// Gives a finished folder its final name in the same parent; durable when it returns. `to` must not
// exist (ALREADY_EXISTS), not even as an empty folder. The caller has synced the content.
absl::Status RenameFolder(const std::string& from, const std::string& to);

// Removes a file or folder with all it holds; fine if there is none.
absl::Status RemoveAll(const std::string& path);

// Removes every entry of `folder` with a temporary name. A missing folder is fine.
absl::Status RemoveTemporaries(const std::string& folder);

}  // namespace laplaced
