#include "client/cli/row_input.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/examples.h"

namespace laplace::cli {
namespace {

using client::Array;
using client::DType;
using ::laplaced::RowReader;
using ::laplaced::ShapeString;

std::string NameOf(const std::string& path) {
  return path == "-" ? std::string("standard input") : path;
}

absl::Status NoRows(const std::string& name) {
  return absl::InvalidArgumentError(absl::StrCat(name, ": holds no rows, expected at least one"));
}

// Gives the rows the model's input shape. A line of text has it by the order of its numbers alone.
absl::Status ShapeForModel(const client::Model& model, const std::string& name, RowReader& reader) {
  Array all;
  all.dtype = reader.dtype();
  all.boolean = reader.boolean();
  all.shape = reader.shape();
  if (reader.text()) {
    const int64_t columns = all.shape[1];
    const absl::StatusOr<int64_t> wanted = ::laplaced::NumElements(model.input_shape);
    if (!wanted.ok()) return wanted.status();
    if (columns == 0) return NoRows(name);
    if (columns != *wanted) {
      return absl::InvalidArgumentError(absl::StrCat(
          name, ": model ", model.name, " takes examples of shape ", ShapeString(model.input_shape),
          ": expected ", *wanted, " numbers in a line, got ", columns));
    }
    all.shape.assign(model.input_shape.begin(), model.input_shape.end());
    all.shape.insert(all.shape.begin(), RowReader::kUnknownRows);
  } else if (reader.rows() == 0) {
    return NoRows(name);
  } else if (absl::Status status = cli::ShapeForModel(model, name, all); !status.ok()) {
    return status;
  }
  return reader.Reshape(all.shape);
}

// The same numbers mean two things to a model that takes floats and raw pixels, a factor of 255
// apart.
absl::Status CheckMeaning(const client::Model& model, const std::string& name,
                          const RowReader& reader, const std::string& csv_type) {
  if (!reader.text() || !model.accepts_uint8 || !csv_type.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, ": model ", model.name,
                                                 " takes raw pixels as well as floats: say what "
                                                 "the numbers of the CSV are by --csv-type uint8 "
                                                 "or --csv-type float"));
}

}  // namespace

RowInput::RowInput(const InputOptions& options, std::unique_ptr<RowReader> reader)
    : name_(NameOf(options.files.inputs)),
      batch_size_(options.batch_size),
      begin_(options.files.rows.begin),
      end_(options.files.rows.end),
      reader_(std::move(reader)) {}

absl::StatusOr<std::unique_ptr<RowInput>> RowInput::Open(const InputOptions& options,
                                                         const client::Model& model,
                                                         std::function<bool()> stop) {
  ::laplaced::RowReaderOptions reading;
  reading.stop = std::move(stop);
  if (model.input_dtype == DType::kFloat64) reading.text_dtype = DType::kFloat64;
  if (options.csv_type == "uint8") {
    if (!model.accepts_uint8) {
      return absl::InvalidArgumentError(
          absl::StrCat("--csv-type uint8: model ", model.name,
                       " does not say how raw pixels become its inputs; send floats"));
    }
    reading.text_dtype = DType::kUint8;
  }
  auto reader = ::laplaced::OpenRows(options.files.inputs, reading);
  if (!reader.ok()) return reader.status();
  std::unique_ptr<RowInput> input(new RowInput(options, *std::move(reader)));
  absl::Status status = ShapeForModel(model, input->name_, *input->reader_);
  if (status.ok()) status = CheckMeaning(model, input->name_, *input->reader_, options.csv_type);
  if (status.ok()) status = input->Seek(options);
  if (!status.ok()) return status;
  return input;
}

absl::Status RowInput::Seek(const InputOptions& options) {
  const int64_t rows = reader_->rows();
  if (rows != RowReader::kUnknownRows) {
    const int64_t end = end_ < 0 ? rows : end_;
    if (begin_ >= end || end > rows) return NotThere(rows);
    total_ = end - begin_;
  }
  if (end_ >= 0) most_ = end_ - begin_;
  if (options.limit > 0) {
    most_ = most_ < 0 ? options.limit : std::min(most_, options.limit);
    if (total_ >= 0) total_ = std::min(total_, options.limit);
  }
  const absl::StatusOr<int64_t> skipped = reader_->Skip(begin_);
  if (!skipped.ok()) return skipped.status();
  return *skipped < begin_ ? NotThere(*skipped) : absl::OkStatus();
}

absl::Status RowInput::NotThere(int64_t rows) const {
  return absl::InvalidArgumentError(absl::StrCat(name_, ": rows ", begin_, ":",
                                                 end_ < 0 ? "" : absl::StrCat(end_),
                                                 " are not among its ", rows, " rows"));
}

absl::StatusOr<Array> RowInput::Next() {
  int64_t count = batch_size_;
  if (total_ >= 0) count = std::min(count, total_ - yielded_);
  if (most_ >= 0) count = std::min(count, most_ - yielded_);
  if (count == 0) return Array{reader_->dtype(), {0}, ""};
  absl::StatusOr<Array> batch = reader_->Next(count);
  if (!batch.ok()) return batch;
  yielded_ += batch->rows();
  if (batch->rows() == 0 && yielded_ == 0) return NoRows(name_);
  // Of a range that was asked for nothing may be missing.
  if (batch->rows() == 0 && end_ >= 0) return NotThere(begin_ + yielded_);
  return batch;
}

}  // namespace laplace::cli
