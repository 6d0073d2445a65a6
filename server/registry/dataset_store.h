// Data sets that clients uploaded: `<root>/datasets/<id>/{inputs.npy, targets.npy, dataset.json}`.
//
// The id is "sha256-<hex>" over a canonical description and the raw values (DatasetHasher in
// formats/dataset_id.h, which the client uses too), so equal data has equal ids and is stored once.
// A writer appends rows in order to a hidden temporary folder, and refuses floats that are not
// finite; Commit checks the row count, fsyncs and renames. Dropping a writer without Commit removes
// its files. The store enforces a byte limit per data set and one for all of them together, those
// that are being written included (RESOURCE_EXHAUSTED, before writing).
// DatasetStore is thread-safe; a DatasetWriter belongs to one thread at a time and does not need
// the store any more.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "formats/array.h"
#include "formats/dataset_id.h"
#include "formats/safetensors.h"

namespace laplaced {

struct DatasetInfo {
  std::string id;
  DatasetHeader header;
};

class DatasetWriter {
 public:
  ~DatasetWriter();

  // Appends rows: inputs [rows, example_shape...], targets [rows, target_shape...], at any
  // alignment. A FieldError on "inputs" or "targets" if shape or dtype differ from the header, if
  // rows differ between the two, if more rows come than announced, or if a float is not finite
  // (message names the row, counted from 0 at the start of the data set); the writer is then as it
  // was before. After any other error (disk full) the writer cannot be used any more:
  // FAILED_PRECONDITION.
  absl::Status Append(const ArrayView& inputs, const ArrayView& targets);

  // Makes the data set visible; durable when it returns. INVALID_ARGUMENT if rows are missing (more
  // may be appended then). If the same data is there already, drops the copy; a damaged data set of
  // that id is replaced. FAILED_PRECONDITION on a second call.
  absl::StatusOr<DatasetInfo> Commit();

 private:
  friend class DatasetStore;
  struct State;
  explicit DatasetWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Paths of a stored data set; inputs.npy and targets.npy are mapped or read by server/data.
struct DatasetFiles {
  DatasetInfo info;
  std::string inputs_path;
  std::string targets_path;
};

class DatasetStore {
 public:
  // `max_total_bytes` 0: no limit.
  DatasetStore(std::string folder, int64_t max_dataset_bytes, int64_t max_total_bytes = 0);

  // INVALID_ARGUMENT for an impossible header (no rows, a non-positive dimension, overflow, more
  // than 31 dimensions per example, unsupported dtype: inputs are float32, float64 or uint8;
  // targets are int64, float32 or float64).
  absl::StatusOr<std::unique_ptr<DatasetWriter>> NewWriter(const DatasetHeader& header) const;

  // Errors: INVALID_ARGUMENT (malformed id), NOT_FOUND, DATA_LOSS (a file is missing or damaged, or
  // its size, dtype or shape on disk does not match dataset.json). Does not read the values.
  absl::StatusOr<DatasetFiles> Find(const std::string& id) const;

 private:
  friend class DatasetWriter;
  struct Pending;
  class Share;
  absl::StatusOr<std::unique_ptr<Share>> Reserve(int64_t bytes) const;

  std::string folder_;
  int64_t max_dataset_bytes_;
  int64_t max_total_bytes_;
  std::shared_ptr<Pending> pending_;  // of this store and its copies
};

}  // namespace laplaced
