#include "formats/byte_stream.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/deflate_bound.h"
#include "formats/file_error.h"

namespace laplaced {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 17;
constexpr int kPollMilliseconds = 100;
// zlib's way to say: a window of any size, in gzip's wrapping.
constexpr int kGzipWindow = 15 + 16;

bool IsGzip(absl::string_view bytes) {
  return bytes.size() >= 2 && bytes[0] == '\x1f' && bytes[1] == '\x8b';
}

}  // namespace

ByteStream::ByteStream(UniqueFd fd, std::string name, absl::optional<int64_t> file_size,
                       std::function<bool()> stop)
    : fd_(std::move(fd)),
      name_(std::move(name)),
      file_size_(file_size),
      stop_(std::move(stop)),
      plain_(kBufferBytes, '\0') {}

ByteStream::~ByteStream() {
  if (inflating_) inflateEnd(&zlib_);
}

absl::StatusOr<std::unique_ptr<ByteStream>> ByteStream::Open(const std::string& path,
                                                             std::function<bool()> stop) {
  std::unique_ptr<ByteStream> stream;
  if (path == kStandardInput) {
    UniqueFd fd(fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0));
    if (fd.get() < 0) return FileError(errno, "cannot read standard input");
    stream.reset(new ByteStream(std::move(fd), "standard input", absl::nullopt, std::move(stop)));
  } else {
    absl::StatusOr<OpenedFile> file = OpenRegularFile(path);
    if (!file.ok()) return file.status();
    stream.reset(new ByteStream(std::move(file->fd), path, file->size, std::move(stop)));
  }
  if (absl::Status status = stream->Begin(); !status.ok()) return status;
  return stream;
}

absl::Status ByteStream::Malformed(absl::string_view what) const {
  return absl::InvalidArgumentError(absl::StrCat(name_, ": ", what));
}

absl::StatusOr<size_t> ByteStream::ReadStored(char* out, size_t size) {
  for (;;) {
    // Also for descriptors that do not block, as a terminal's may.
    pollfd ready = {fd_.get(), POLLIN, 0};
    const int count = poll(&ready, 1, stop_ ? kPollMilliseconds : -1);
    if (stop_ && stop_()) return absl::CancelledError(absl::StrCat("stopped reading ", name_));
    if (count == 0) continue;
    const ssize_t n = count < 0 ? -1 : read(fd_.get(), out, size);
    if (n >= 0) return static_cast<size_t>(n);
    if (errno != EINTR && errno != EAGAIN) {
      return FileError(errno, absl::StrCat("cannot read ", name_));
    }
  }
}

absl::Status ByteStream::Begin() {
  while (end_ < 2 && !ended_) {
    const absl::StatusOr<size_t> n = ReadStored(&plain_[end_], kBufferBytes - end_);
    if (!n.ok()) return n.status();
    end_ += *n;
    ended_ = *n == 0;
  }
  if (!IsGzip(absl::string_view(plain_).substr(0, end_))) return absl::OkStatus();
  stored_ = std::exchange(plain_, std::string(kBufferBytes, '\0'));
  zlib_.next_in = reinterpret_cast<Bytef*>(stored_.data());
  zlib_.avail_in = static_cast<uInt>(std::exchange(end_, 0));
  if (inflateInit2(&zlib_, kGzipWindow) != Z_OK) {
    return absl::ResourceExhaustedError(absl::StrCat("not enough memory to unpack ", name_));
  }
  inflating_ = true;
  ended_ = false;
  return absl::OkStatus();
}

absl::Status ByteStream::Fill() {
  if (begin_ > 0) {
    std::memmove(plain_.data(), plain_.data() + begin_, end_ - begin_);
    end_ -= std::exchange(begin_, 0);
  }
  if (inflating_) return Inflate();
  const absl::StatusOr<size_t> n = ReadStored(&plain_[end_], kBufferBytes - end_);
  if (!n.ok()) return n.status();
  end_ += *n;
  ended_ = *n == 0;
  return absl::OkStatus();
}

absl::Status ByteStream::Inflate() {
  const size_t before = end_;
  while (end_ == before && !ended_) {
    if (zlib_.avail_in == 0) {
      const absl::StatusOr<size_t> n = ReadStored(stored_.data(), stored_.size());
      if (!n.ok()) return n.status();
      if (*n == 0 && !between_members_) return Malformed("the compressed data ends early");
      ended_ = *n == 0;
      zlib_.next_in = reinterpret_cast<Bytef*>(stored_.data());
      zlib_.avail_in = static_cast<uInt>(*n);
      if (ended_) break;
    }
    if (between_members_) {
      inflateReset(&zlib_);
      between_members_ = false;
    }
    zlib_.next_out = reinterpret_cast<Bytef*>(&plain_[end_]);
    zlib_.avail_out = static_cast<uInt>(kBufferBytes - end_);
    const int code = inflate(&zlib_, Z_NO_FLUSH);
    end_ = kBufferBytes - zlib_.avail_out;
    between_members_ = code == Z_STREAM_END;
    if (code == Z_MEM_ERROR) {
      return absl::ResourceExhaustedError(absl::StrCat("not enough memory to unpack ", name_));
    }
    if (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR) {
      return Malformed(absl::StrCat("the compressed data is damaged",
                                    zlib_.msg == nullptr ? "" : ": ",
                                    zlib_.msg == nullptr ? "" : zlib_.msg));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<absl::string_view> ByteStream::Peek(size_t size) {
  while (end_ - begin_ < size && !ended_) {
    if (absl::Status status = Fill(); !status.ok()) return status;
  }
  return absl::string_view(plain_).substr(begin_, end_ - begin_);
}

void ByteStream::Skip(size_t size) { begin_ += std::min(size, end_ - begin_); }

int64_t ByteStream::most_bytes() const {
  if (!file_size_) return INT64_MAX;
  return inflating_ ? MaxInflatedBytes(*file_size_) : *file_size_;
}

absl::StatusOr<size_t> ByteStream::Read(char* out, size_t size) {
  size_t done = 0;
  while (done < size) {
    const absl::StatusOr<absl::string_view> next = Peek(1);
    if (!next.ok()) return next.status();
    if (next->empty()) break;
    const size_t n = next->copy(out + done, size - done);
    Skip(n);
    done += n;
  }
  return done;
}

absl::Status ByteStream::ReadExactly(char* out, size_t size, absl::string_view what) {
  const absl::StatusOr<size_t> n = Read(out, size);
  if (!n.ok()) return n.status();
  if (*n == size) return absl::OkStatus();
  return Malformed(absl::StrCat("expected ", size, " bytes of ", what, ", got ", *n));
}

}  // namespace laplaced
