// Rows of a file or of standard input in the shape that a model takes, a batch at a time.
//
// Constant memory, whatever the size (formats/row_reader.h). Errors: those of the file, and
// INVALID_ARGUMENT if rows do not fit the model, are not there, or there are none. Belongs to one
// thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/input_options.h"
#include "client/cpp/types.h"
#include "formats/row_reader.h"

namespace laplace::cli {

class RowInput {
 public:
  // Goes to the first row that is wanted. `stop` is asked while standard input yields nothing.
  static absl::StatusOr<std::unique_ptr<RowInput>> Open(const InputOptions& options,
                                                        const client::Model& model,
                                                        std::function<bool()> stop);

  // The next batch; no rows at the end.
  absl::StatusOr<client::Array> Next();

  // Number of the first row in the file.
  int64_t first_row() const { return begin_; }
  // Rows that Next will yield in all; -1 if only the end will tell.
  int64_t total() const { return total_; }

 private:
  RowInput(const InputOptions& options, std::unique_ptr<::laplaced::RowReader> reader);

  // Finds out which rows are wanted, and leaves out those before them.
  absl::Status Seek(const InputOptions& options);
  absl::Status NotThere(int64_t rows) const;

  const std::string name_;
  const int64_t batch_size_;
  const int64_t begin_;
  const int64_t end_;  // of the range that was asked for; -1: none
  std::unique_ptr<::laplaced::RowReader> reader_;
  int64_t total_ = -1;
  int64_t most_ = -1;  // rows to yield at most; -1: all
  int64_t yielded_ = 0;
};

}  // namespace laplace::cli
