#include "formats/idx.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "formats/deflate_bound.h"
#include "formats/file_handle.h"

namespace laplaced {
namespace {

constexpr size_t kMaxReadBytes = size_t{1} << 30;
constexpr unsigned kBufferBytes = 1u << 17;

struct CloseGz {
  void operator()(gzFile file) const { gzclose(file); }
};
using GzHandle = std::unique_ptr<gzFile_s, CloseGz>;

absl::Status Malformed(const std::string& path, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
}

// Fills `out` from a stream that zlib decompresses if it is compressed; how many bytes there were.
absl::StatusOr<size_t> ReadUpTo(gzFile file, char* out, size_t size, const std::string& path) {
  size_t done = 0;
  while (done < size) {
    const int n =
        gzread(file, out + done, static_cast<unsigned>(std::min(size - done, kMaxReadBytes)));
    if (n > 0) done += static_cast<size_t>(n);
    int error = Z_OK;
    const char* message = gzerror(file, &error);
    if (error == Z_BUF_ERROR) return Malformed(path, "the compressed data ends early");
    if (error == Z_DATA_ERROR) {
      return Malformed(path, absl::StrCat("the compressed data is damaged: ", message));
    }
    if (n < 0) return absl::InternalError(absl::StrCat("cannot read ", path, ": ", message));
    if (n == 0) break;
  }
  return done;
}

absl::Status ReadExactly(gzFile file, char* out, size_t size, const std::string& path,
                         absl::string_view what) {
  absl::StatusOr<size_t> n = ReadUpTo(file, out, size, path);
  if (!n.ok()) return n.status();
  if (*n == size) return absl::OkStatus();
  return Malformed(path, absl::StrCat("expected ", size, " bytes of ", what, ", got ", *n));
}

absl::StatusOr<DType> ElementType(int code, const std::string& path) {
  switch (code) {
    case 0x08:
      return DType::kUint8;
    case 0x0C:
      return DType::kInt32;
    case 0x0D:
      return DType::kFloat32;
    case 0x0E:
      return DType::kFloat64;
    case 0x09:
      return Malformed(path, "element type 0x09 (signed byte) is not supported");
    case 0x0B:
      return Malformed(path, "element type 0x0b (16-bit integer) is not supported");
    default:
      return Malformed(path, absl::StrCat("not an IDX file: unknown element type 0x",
                                          absl::Hex(code, absl::kZeroPad2)));
  }
}

void SwapBytes(char* bytes, size_t size, size_t element_size) {
  for (char* element = bytes; element != bytes + size; element += element_size) {
    std::reverse(element, element + element_size);
  }
}

// How many bytes of elements the file can hold behind a header of `header_bytes`.
int64_t Capacity(bool compressed, int64_t file_size, int64_t header_bytes) {
  return (compressed ? MaxInflatedBytes(file_size) : file_size) - header_bytes;
}

absl::StatusOr<Array> ReadArray(gzFile file, int64_t file_size, const std::string& path,
                                int64_t max_bytes) {
  unsigned char magic[4];
  absl::Status status = ReadExactly(file, reinterpret_cast<char*>(magic), 4, path, "IDX header");
  if (!status.ok()) return status;
  if (magic[0] != 0 || magic[1] != 0) {
    return Malformed(path, "not an IDX file: it does not begin with two zero bytes");
  }
  absl::StatusOr<DType> dtype = ElementType(magic[2], path);
  if (!dtype.ok()) return dtype.status();
  if (magic[3] == 0) return Malformed(path, "an IDX file needs at least one dimension, got 0");
  std::vector<int64_t> shape;
  for (int i = 0; i < magic[3]; ++i) {
    unsigned char size[4];
    status = ReadExactly(file, reinterpret_cast<char*>(size), 4, path, "dimension");
    if (!status.ok()) return status;
    shape.push_back(int64_t{size[0]} << 24 | size[1] << 16 | size[2] << 8 | size[3]);
  }
  absl::StatusOr<int64_t> bytes = NumBytes(*dtype, shape);
  if (!bytes.ok()) return Malformed(path, bytes.status().message());
  const int64_t header_bytes = 4 + 4 * int64_t{magic[3]};
  if (const int64_t capacity = Capacity(!gzdirect(file), file_size, header_bytes);
      *bytes > capacity) {
    return Malformed(path, absl::StrCat(DTypeName(*dtype), " array of shape ", ShapeString(shape),
                                        " needs ", *bytes, " bytes, the file can hold at most ",
                                        std::max<int64_t>(capacity, 0)));
  }
  absl::StatusOr<Array> array = AllocateArray(*dtype, shape, max_bytes);
  if (!array.ok()) {
    return absl::Status(array.status().code(), absl::StrCat(path, ": ", array.status().message()));
  }
  status = ReadExactly(file, array->bytes.data(), array->bytes.size(), path, "elements");
  if (!status.ok()) return status;
  // Reading past the end also makes zlib compare the checksum of the whole.
  char extra;
  absl::StatusOr<size_t> rest = ReadUpTo(file, &extra, 1, path);
  if (!rest.ok()) return rest.status();
  if (*rest != 0) {
    return Malformed(path, absl::StrCat("more data than the announced shape ", ShapeString(shape)));
  }
  SwapBytes(array->bytes.data(), array->bytes.size(), ElementSize(*dtype));
  return array;
}

}  // namespace

absl::StatusOr<Array> ReadIdx(const std::string& path, int64_t max_bytes) {
  absl::StatusOr<OpenedFile> file = OpenRegularFile(path);
  if (!file.ok()) return file.status();
  GzHandle handle(gzdopen(file->fd.get(), "rb"));
  if (!handle) return absl::ResourceExhaustedError(absl::StrCat("cannot read ", path));
  file->fd.Release();  // gzclose closes it
  gzbuffer(handle.get(), kBufferBytes);
  return ReadArray(handle.get(), file->size, path, max_bytes);
}

}  // namespace laplaced
