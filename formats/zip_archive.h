// ZIP archives that came from somebody else: members, stored or deflated, by name.
//
// Opening refuses encrypted members, other compression methods, equal names and overlapping
// members. Before a member is unpacked its declared size is held against the limit for the sum of
// all members and against what its compressed bytes can hold (1032 times as much), so a small file
// cannot make the reader take much memory. Checksums are compared when a member has been read to
// its end. Errors: NOT_FOUND (no such file), INVALID_ARGUMENT (malformed; the message names
// archive, member and what was expected), RESOURCE_EXHAUSTED (no memory for a member). An archive
// may be moved; it belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct zip;
struct zip_file;

namespace laplaced {

struct ZipMember {
  uint64_t index = 0;
  std::string name;
  std::string shown;  // "<archive>: member '<name>'", for messages
  int64_t bytes = 0;  // unpacked
};

// The unpacked bytes of a member from beginning to end. The archive must outlive it.
class ZipMemberReader {
 public:
  ZipMemberReader(zip_file* file, std::string shown) : file_(file), shown_(std::move(shown)) {}

  // All of `size` bytes.
  absl::Status Read(char* out, size_t size) const;
  // After the last byte: that there is no other, and that the checksum is right.
  absl::Status CheckEnd() const;

 private:
  struct Close {
    void operator()(zip_file* file) const;
  };
  std::unique_ptr<zip_file, Close> file_;
  std::string shown_;
};

class ZipArchive {
 public:
  // `max_bytes` bounds the sum of all unpacked members.
  static absl::StatusOr<ZipArchive> OpenFile(const std::string& path, int64_t max_bytes);
  // `bytes` must outlive the archive; `name` is for messages.
  static absl::StatusOr<ZipArchive> OpenBytes(absl::string_view bytes, const std::string& name,
                                              int64_t max_bytes);

  // In the order of the directory.
  const std::vector<ZipMember>& members() const { return members_; }
  // Null if there is none of that name.
  const ZipMember* Find(absl::string_view name) const;

  absl::StatusOr<ZipMemberReader> Open(const ZipMember& member) const;
  // A whole member.
  absl::StatusOr<std::string> Read(const ZipMember& member) const;

 private:
  struct Discard {
    void operator()(zip* archive) const;
  };
  ZipArchive() = default;
  absl::Status ListMembers(const std::string& name, int64_t file_bytes, int64_t max_bytes);

  std::unique_ptr<zip, Discard> archive_;
  std::vector<ZipMember> members_;
  std::map<std::string, size_t, std::less<>> places_;  // in members_, by name
};

// What libzip says of one of its error codes.
std::string ZipErrorText(int code);

}  // namespace laplaced
