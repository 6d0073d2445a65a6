// Files of scores, written as the answers come, in constant memory.
//
//   CSV     a line of names, then one line for each row: row,NAME,NAME_is_ood,...
//   NDJSON  one JSON object for each row, with the same keys
//   NPZ     arrays row (int64 [N]), NAME (float64 [N]), NAME_is_ood (uint8 [N], 0 or 1) and
//           NAME_threshold (float64, one number)
//
// NAME is a score; what belongs to its threshold is left out where there is none. is_ood is 0 or 1,
// in NDJSON false or true. Numbers are the shortest ones that read back as the same doubles; in
// NDJSON those that are not finite are null. A file appears under its name when it is complete, and
// what was there before stays until then. A writer belongs to one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cpp/types.h"

namespace laplace::cli {

enum class ScoreFormat { kCsv, kNdjson, kNpz };

class ScoreWriter {
 public:
  virtual ~ScoreWriter() = default;

  // Rows from `first_row` on, with the scores and thresholds of the first call.
  virtual absl::Status Write(int64_t first_row, const client::Scores& scores) = 0;
  // After the last row.
  virtual absl::Status Finish() = 0;
  // Whether nobody reads any more what is written to standard output.
  virtual bool reader_gone() const { return false; }
};

// `path` "-" is standard output (not for kNpz), to which rows go as they come. Errors of the file
// are those of formats/atomic_file.h.
absl::StatusOr<std::unique_ptr<ScoreWriter>> OpenScoreWriter(ScoreFormat format,
                                                             const std::string& path);

}  // namespace laplace::cli
