// Data files into the registry's store, as an upload from a client would put them there: same ids,
// same files. A batch at a time, in constant memory.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "server/model/manifest.h"
#include "server/registry/dataset_store.h"

namespace laplaced {

struct DataFiles {
  std::string inputs;   // .npy, .npz or IDX, see row_reader.h
  std::string targets;  // likewise; empty: the same .npz
  int64_t begin = 0;    // rows [begin, end)
  int64_t end = -1;     // negative: to the last one
};

// Told before every batch how many rows of all are stored; after an error that it returns nothing
// stays of the import.
using ImportProgressFn = std::function<absl::Status(int64_t done, int64_t total)>;

// The id of the stored data set. Inputs may leave out dimensions of size 1 of the model's and are
// no bool, bool targets and integers of any width become int64. INVALID_ARGUMENT (the message names
// the file) and those of RowReader, DatasetStore and `progress`.
absl::StatusOr<std::string> ImportDataset(const DataFiles& files, const Manifest& manifest,
                                          const DatasetStore& store,
                                          const ImportProgressFn& progress = nullptr);

}  // namespace laplaced
