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

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "formats/array.h"

namespace laplaced {

absl::StatusOr<Array> ReadIdx(const std::string& path, int64_t max_bytes = kDefaultMaxArrayBytes);

}  // namespace laplaced
