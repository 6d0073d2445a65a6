// Durable records of long-running operations: `<root>/operations/<id>.json`, one file per
// operation, replaced atomically.
//
// A record is on disk (fsync) before the operation is acknowledged and again when it ends; progress
// in between lives in memory only. When the store opens, records still marked running belong to a
// process that is gone: they become FAILED with ABORTED and a message that says the server stopped
// while the operation ran. A record whose text does not match the checksum in it (sealed_json.h) is
// renamed to `<name>.damaged` (with a number if that exists) and reported, never deleted silently;
// one that the disk does not give is left where it is, and reported too. Thread-safe; of two calls
// that save the same id one wins as a whole.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace laplaced {

enum class OperationState { kRunning, kSucceeded, kFailed, kCancelled };

struct OperationRecord {
  std::string id;
  OperationState state = OperationState::kRunning;
  std::string description;
  std::string posterior_id;   // result, when it succeeded
  int error_code = 0;         // absl::StatusCode as int, when it failed
  std::string error_message;  // when it failed
  std::string start_time;     // RFC 3339, UTC
  std::string end_time;       // empty while it runs
  int64_t model_version = 0;  // result, if it made a version of a model
  std::string result;         // likewise, for people
};

class OperationStore {
 public:
  // Creates the folder if it is missing and removes temporary files of a killed process. `damaged`
  // (if given) receives the names of unreadable records as they were before any renaming.
  static absl::StatusOr<OperationStore> Open(const std::string& folder,
                                             std::vector<std::string>* damaged = nullptr);

  // Reads and changes nothing. Records still marked running are left out: they may be another
  // process's, which alone knows how they stand. Do not call Save.
  static absl::StatusOr<OperationStore> OpenReadOnly(const std::string& folder,
                                                     std::vector<std::string>* damaged = nullptr);

  // All records found at Open, ended ones included, oldest first.
  const std::vector<OperationRecord>& recovered() const { return recovered_; }

  // INVALID_ARGUMENT if the id is not a valid name (repository.h).
  absl::Status Save(const OperationRecord& record) const;
  // OK if there is no such record. After a crash that follows at once it may be there again.
  absl::Status Remove(const std::string& id) const;

 private:
  explicit OperationStore(std::string folder) : folder_(std::move(folder)) {}
  // Fills `recovered_`; repairs what a dead process left, unless `read_only`.
  absl::Status ReadAll(bool read_only, std::vector<std::string>* damaged);

  std::string folder_;
  std::vector<OperationRecord> recovered_;
};

}  // namespace laplaced
