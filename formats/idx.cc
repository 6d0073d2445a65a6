#include "formats/idx.h"

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"

namespace laplaced {
namespace {

absl::Status Malformed(const std::string& path, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
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

}  // namespace

absl::StatusOr<IdxHeader> ReadIdxHeader(ByteStream& stream) {
  const std::string& path = stream.name();
  unsigned char magic[4];
  absl::Status status = stream.ReadExactly(reinterpret_cast<char*>(magic), 4, "IDX header");
  if (!status.ok()) return status;
  if (magic[0] != 0 || magic[1] != 0) {
    return Malformed(path, "not an IDX file: it does not begin with two zero bytes");
  }
  absl::StatusOr<DType> dtype = ElementType(magic[2], path);
  if (!dtype.ok()) return dtype.status();
  if (magic[3] == 0) return Malformed(path, "an IDX file needs at least one dimension, got 0");
  IdxHeader header;
  header.dtype = *dtype;
  for (int i = 0; i < magic[3]; ++i) {
    unsigned char size[4];
    status = stream.ReadExactly(reinterpret_cast<char*>(size), 4, "dimension");
    if (!status.ok()) return status;
    header.shape.push_back(int64_t{size[0]} << 24 | size[1] << 16 | size[2] << 8 | size[3]);
  }
  absl::StatusOr<int64_t> bytes = NumBytes(header.dtype, header.shape);
  if (!bytes.ok()) return Malformed(path, bytes.status().message());
  if (const int64_t capacity = stream.most_bytes() - 4 - 4 * int64_t{magic[3]}; *bytes > capacity) {
    return Malformed(
        path, absl::StrCat(DTypeName(header.dtype), " array of shape ", ShapeString(header.shape),
                           " needs ", *bytes, " bytes, the file can hold at most ",
                           std::max<int64_t>(capacity, 0)));
  }
  return header;
}

void IdxToNative(DType dtype, char* bytes, size_t size) {
  const int64_t element_size = ElementSize(dtype);
  for (char* element = bytes; element != bytes + size; element += element_size) {
    std::reverse(element, element + element_size);
  }
}

absl::StatusOr<Array> ReadIdx(const std::string& path, int64_t max_bytes) {
  absl::StatusOr<std::unique_ptr<ByteStream>> stream = ByteStream::Open(path);
  if (!stream.ok()) return stream.status();
  absl::StatusOr<IdxHeader> header = ReadIdxHeader(**stream);
  if (!header.ok()) return header.status();
  absl::StatusOr<Array> array = AllocateArray(header->dtype, header->shape, max_bytes);
  if (!array.ok()) {
    return absl::Status(array.status().code(), absl::StrCat(path, ": ", array.status().message()));
  }
  absl::Status status =
      (*stream)->ReadExactly(array->bytes.data(), array->bytes.size(), "elements");
  if (!status.ok()) return status;
  // Looking past the end also makes zlib compare the checksum of the whole.
  absl::StatusOr<absl::string_view> rest = (*stream)->Peek(1);
  if (!rest.ok()) return rest.status();
  if (!rest->empty()) {
    return Malformed(
        path, absl::StrCat("more data than the announced shape ", ShapeString(header->shape)));
  }
  IdxToNative(array->dtype, array->bytes.data(), array->bytes.size());
  return array;
}

}  // namespace laplaced
