// Data files into the registry's store, as an upload from a client would put them there: same ids,
// same files. A batch at a time, in constant memory.
#pragma once

#include <cstdint>
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

// The id of the stored data set. Inputs may leave out dimensions of size 1 of the model's and are
// no bool, bool targets and integers of any width become int64. INVALID_ARGUMENT (the message names
// the file) and those of RowReader and DatasetStore.
absl::StatusOr<std::string> ImportDataset(const DataFiles& files, const Manifest& manifest,
                                          const DatasetStore& store);

}  // namespace laplaced
