// NumPy's .npy format, versions 1, 2 and 3: a text header and raw little-endian elements.
//
// Read are '<f4', '<f8', '<i4', '<i8', '|u1' and '|b1' (as uint8 that is marked as boolean) in C
// order; Fortran order, big-endian values, objects and every other type are refused by name. The
// file must hold exactly the elements that its header announces. At most the announced size is
// allocated, after it was found equal to the bytes that are there, plus 64 KiB for the header.
// Errors: NOT_FOUND (no such file), INVALID_ARGUMENT (anything malformed or larger than the limit;
// the message begins with the name of the file and says what was expected). Free functions,
// thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "formats/array.h"

namespace laplaced {

struct NpyHeader {
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;
  int64_t data_offset = 0;  // bytes before the first element
  bool boolean = false;     // as in Array
};

// Delivers the next `size` bytes of a stream, all of them or an error.
using ByteReader = std::function<absl::Status(char* out, size_t size)>;

// Reads up to the first element. `total_bytes`, if known, is the size of header and elements
// together, and the header is held against it. `name` is for messages.
absl::StatusOr<NpyHeader> ReadNpyHeader(const ByteReader& read, absl::optional<int64_t> total_bytes,
                                        const std::string& name);

// Reads one array from a stream of `total_bytes`.
absl::StatusOr<Array> ReadNpyStream(const ByteReader& read, int64_t total_bytes,
                                    const std::string& name,
                                    int64_t max_bytes = kDefaultMaxArrayBytes);

absl::StatusOr<Array> ReadNpy(const std::string& path, int64_t max_bytes = kDefaultMaxArrayBytes);

// The header alone, checked against the size of the file: what is needed to map the elements.
absl::StatusOr<NpyHeader> ReadNpyHeader(const std::string& path);

// What stands before the elements, a multiple of 64 bytes long, and at least `min_bytes`, so that a
// header can be written over another one. INVALID_ARGUMENT for a shape that is impossible or has
// more than the 32 dimensions that every NumPy reads.
absl::StatusOr<std::string> SerializeNpyHeader(DType dtype, const std::vector<int64_t>& shape,
                                               size_t min_bytes = 0);

// Header and elements. INVALID_ARGUMENT if `array.bytes` does not have the size its shape says.
absl::StatusOr<std::string> SerializeNpy(const Array& array);

// Replaces `path` atomically.
absl::Status WriteNpy(const std::string& path, const Array& array);

}  // namespace laplaced
