// Rows of an array file or of standard input, a batch at a time, in constant memory.
//
// Read are .npy (plain or gzip), .npz, IDX (plain or gzip, named as in array_file.h), .csv (plain
// or gzip, see csv_rows.h), and from standard input .npy or CSV, whichever the first bytes are,
// plain or gzip. At most one batch and buffers of some 100 KiB are held. Content is untrusted: the
// header is held against the size of the file where that is known, and the end against the header
// when the last row is read. Errors: NOT_FOUND (no such file); INVALID_ARGUMENT (malformed, or
// larger than the limit for a batch; the message begins with the name of the file and says what was
// expected); CANCELLED (`stop`). A reader belongs to one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "formats/array.h"

namespace laplaced {

struct RowReaderOptions {
  // Names of the array in a .npz file, the first that there is; the only array has any name.
  std::vector<std::string> keys = {"x", "inputs"};
  // Refuses CSV and standard input, whose rows nobody knows the number of before their end.
  bool arrays_only = false;
  // What the numbers of a CSV file become: kFloat32, kFloat64 or kUint8.
  DType text_dtype = DType::kFloat32;
  // Most bytes of one batch.
  int64_t max_batch_bytes = int64_t{256} << 20;
  // Asked several times a second while there is nothing to read; true ends it.
  std::function<bool()> stop = {};
};

class RowReader {
 public:
  static constexpr int64_t kUnknownRows = -1;

  virtual ~RowReader() = default;
  RowReader(const RowReader&) = delete;
  RowReader& operator=(const RowReader&) = delete;

  DType dtype() const { return dtype_; }
  // As in Array.
  bool boolean() const { return boolean_; }
  // All rows as one array: [rows, ...], or [kUnknownRows, ...] of CSV and of what has no end yet.
  const std::vector<int64_t>& shape() const { return shape_; }
  int64_t rows() const { return shape_.empty() ? 0 : shape_[0]; }
  // Whether a row is a line of numbers whose order alone says what they are.
  bool text() const { return text_; }

  // Gives the same elements another shape, before the first row is read. INVALID_ARGUMENT if it has
  // not as many elements.
  absl::Status Reshape(const std::vector<int64_t>& shape);

  // Up to `max_rows` >= 1 rows; fewer only at the end, and none after it.
  absl::StatusOr<Array> Next(int64_t max_rows);
  // Leaves out rows; how many there were, fewer than asked for only at the end.
  absl::StatusOr<int64_t> Skip(int64_t rows);

 protected:
  RowReader(std::string name, DType dtype, std::vector<int64_t> shape, bool text,
            int64_t max_batch_bytes, bool boolean = false);

  const std::string& name() const { return name_; }
  absl::Status Malformed(absl::string_view what) const;

 private:
  // Appends up to `count` rows of `row_bytes` to `bytes`, fewer only at the end; how many.
  virtual absl::StatusOr<int64_t> Read(int64_t count, int64_t row_bytes, std::string& bytes) = 0;
  // After the last row of a known number: nothing may follow.
  virtual absl::Status CheckEnd() = 0;

  const std::string name_;
  const DType dtype_;
  std::vector<int64_t> shape_;
  const bool text_;
  const int64_t max_batch_bytes_;
  const bool boolean_;
  int64_t next_row_ = 0;
};

// `path` is a file or kStandardInput ("-").
absl::StatusOr<std::unique_ptr<RowReader>> OpenRows(const std::string& path,
                                                    const RowReaderOptions& options = {});

}  // namespace laplaced
