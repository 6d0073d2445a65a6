// Whole files of numbers: .npy, .npz and IDX, the last plain or with gzip. Files that may hold more
// than is wanted of them are read by row_reader.h.
//
// The format is chosen by the end of the name: ".npy"; ".npz"; and for IDX any name that ends in
// ".gz" or whose last part contains "idx", such as "train-images-idx3-ubyte.gz" and "t10k.idx3".
// Errors are those of npy.h, npz.h and idx.h, and INVALID_ARGUMENT for any other name. Thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "formats/array.h"

namespace laplaced {

// Key of the array in a file that holds only one.
inline constexpr char kSingleArrayKey[] = "data";

// Arrays by name. `max_bytes` bounds their unpacked size together.
absl::StatusOr<std::map<std::string, Array>> ReadArrayFile(
    const std::string& path, int64_t max_bytes = kDefaultMaxArrayBytes);

}  // namespace laplaced
