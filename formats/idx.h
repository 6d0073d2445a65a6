// IDX files, the format of MNIST and its relatives, plain or compressed with gzip.
//
// Four bytes (0, 0, element type, number of dimensions), one big-endian 32-bit size per dimension,
// then the elements, big-endian. Read are unsigned bytes, 32-bit integers, floats and doubles;
// values come out in native byte order. The file must hold exactly the elements it announces.
// Memory is taken only after the announced size was found to be within the limit and possible:
// equal to what is in a plain file, at most 1032 times the size of a compressed one (deflate cannot
// do better). Errors: NOT_FOUND (no such file), INVALID_ARGUMENT (malformed; the message names the
// file and what was expected). Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/array.h"
#include "formats/byte_stream.h"

namespace laplaced {

struct IdxHeader {
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;
};

// Reads up to the first element, and refuses more elements than the file can hold.
absl::StatusOr<IdxHeader> ReadIdxHeader(ByteStream& stream);

// Turns whole elements as the file has them into native ones.
void IdxToNative(DType dtype, char* bytes, size_t size);

absl::StatusOr<Array> ReadIdx(const std::string& path, int64_t max_bytes = kDefaultMaxArrayBytes);

}  // namespace laplaced
