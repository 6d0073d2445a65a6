// Rows of a text file: one example on each line, its numbers separated by commas.
//
// A first line in which no field is a number holds names and is left out. Every other line has as
// many numbers as the first one; they may have blanks around them. Lines end with LF or CRLF, the
// last one with either or nothing; blank lines may follow the last row only. Numbers are finite
// decimals ("1", "-0.5", "1e-3"); quotes and other separators are not read. Errors are those of
// row_reader.h and name line and column, counted from 1. Thread-safe (a free function).
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "formats/array.h"
#include "formats/byte_stream.h"
#include "formats/row_reader.h"

namespace laplaced {

// A line may have this many bytes.
inline constexpr int64_t kMaxCsvLineBytes = int64_t{32} << 20;

// Reads the first row, so that the shape [kUnknownRows, numbers of a line] is known. `dtype` is
// kFloat32, kFloat64 or kUint8 (whole numbers from 0 to 255). Without rows it is
// [kUnknownRows, names of the first line].
absl::StatusOr<std::unique_ptr<RowReader>> OpenCsvRows(std::shared_ptr<ByteStream> stream,
                                                       DType dtype, int64_t max_batch_bytes);

}  // namespace laplaced
