// The bytes of a file or of standard input from beginning to end, unpacked if they are gzip.
//
// Holds two buffers of 128 KiB and nothing else, whatever the file. Several gzip members one after
// the other are one stream, as gzip has it. Errors: those of file_handle.h; INVALID_ARGUMENT if
// compressed data are damaged or end early; CANCELLED if `stop` said so. Belongs to one thread.
#pragma once

#include <zlib.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "formats/file_handle.h"

namespace laplaced {

// Names standard input where a path is expected.
inline constexpr char kStandardInput[] = "-";

class ByteStream {
 public:
  // `path` is a regular file or kStandardInput. `stop`, if there is one, is asked several times a
  // second while there is nothing to read.
  static absl::StatusOr<std::unique_ptr<ByteStream>> Open(const std::string& path,
                                                          std::function<bool()> stop = {});
  ~ByteStream();

  ByteStream(const ByteStream&) = delete;
  ByteStream& operator=(const ByteStream&) = delete;

  // Up to `size` bytes; fewer only at the end.
  absl::StatusOr<size_t> Read(char* out, size_t size);
  // All of them; INVALID_ARGUMENT names `what` if there are fewer.
  absl::Status ReadExactly(char* out, size_t size, absl::string_view what);

  // What comes next, at least `size` bytes of it (at most kMostPeeked) unless the end is nearer.
  absl::StatusOr<absl::string_view> Peek(size_t size);
  // Leaves out bytes that Peek showed.
  void Skip(size_t size);

  bool compressed() const { return inflating_; }
  // As stored; none of standard input.
  absl::optional<int64_t> file_size() const { return file_size_; }
  // How many bytes the file can hold, unpacked; no bound for standard input.
  int64_t most_bytes() const;
  // For messages.
  const std::string& name() const { return name_; }

  static constexpr size_t kMostPeeked = 1024;

 private:
  ByteStream(UniqueFd fd, std::string name, absl::optional<int64_t> file_size,
             std::function<bool()> stop);

  absl::Status Malformed(absl::string_view what) const;
  // Next bytes as they are stored; 0 at the end.
  absl::StatusOr<size_t> ReadStored(char* out, size_t size);
  // Looks whether the bytes are gzip.
  absl::Status Begin();
  // Puts more bytes behind those that wait in `plain_`, or sets `ended_`.
  absl::Status Fill();
  absl::Status Inflate();

  const UniqueFd fd_;
  const std::string name_;
  const absl::optional<int64_t> file_size_;
  const std::function<bool()> stop_;
  std::string stored_;  // input of inflate
  std::string plain_;   // bytes [begin_, end_) wait to be read
  size_t begin_ = 0;
  size_t end_ = 0;
  bool ended_ = false;
  bool inflating_ = false;
  bool between_members_ = false;
  z_stream zlib_ = {};
};

}  // namespace laplaced
