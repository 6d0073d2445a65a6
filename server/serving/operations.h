// Long-running operations: start, follow, cancel; durable through OperationStore.
//
// Every operation runs on its own thread. Its record is on disk before Start returns and again
// before the end is shown to anyone, so an acknowledged operation is never lost: after a crash it
// shows up as FAILED (see operation_store.h). If the disk refuses the final record, the end is
// logged and shown all the same. Stages and ends go to the log with the operation's id. Of those
// that have ended the last kEndedOperationsKept to end are kept, in memory and on disk; whenever
// one starts, earlier ones go. Thread-safe. The destructor shuts down and waits for all work,
// however long it takes, because the work uses what its caller owns.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/registry/operation_store.h"

namespace laplaced {

inline constexpr int64_t kEndedOperationsKept = 1000;

// A record plus its progress (which lives in memory only).
struct OperationSnapshot {
  OperationRecord record;
  std::string phase;
  int64_t done = 0;
  int64_t total = 0;         // 0: unknown
  double fraction = 0;       // of the whole operation, never falling
  double seconds_left = -1;  // negative: unknown
  uint64_t revision = 0;     // grows with every change, 1 at first
};

// What the work function sees. Belongs to the operation's thread, where the work runs.
class OperationHandle {
 public:
  virtual ~OperationHandle() = default;
  virtual bool cancelled() const = 0;
  // `fraction` of the whole operation in [0, 1].
  virtual void Report(const std::string& phase, int64_t done, int64_t total, double fraction) = 0;
};

// What the work of an operation made.
struct OperationResult {
  OperationResult(std::string posterior)
      : posterior_id(std::move(posterior)) {}  // NOLINT: a result
  OperationResult(int64_t version, std::string text)
      : model_version(version), result(std::move(text)) {}

  std::string posterior_id;   // empty: none
  int64_t model_version = 0;  // 0: none
  std::string result;         // of a model version, for people
};

class Operations {
 public:
  // Returns what it made. CANCELLED ends the operation as cancelled (after
  // Shutdown: as failed with ABORTED, because nobody asked for it), any other error as failed.
  // Should not throw; if it does, the operation fails.
  using Work = std::function<absl::StatusOr<OperationResult>(OperationHandle&)>;

  // Told of every end once, before anybody is shown it, with the seconds since the start; perhaps
  // from several threads at once. Must not throw.
  using OnEnd = std::function<void(const OperationRecord& record, double seconds)>;

  Operations(OperationStore store, int64_t max_running, OnEnd on_end = nullptr);
  ~Operations();
  Operations(const Operations&) = delete;
  Operations& operator=(const Operations&) = delete;

  // What Start would say now of the number of operations: for callers whose preparations are long.
  absl::Status CheckRoom() const;

  // RESOURCE_EXHAUSTED if `max_running` operations run or the system gives no thread; UNAVAILABLE
  // after Shutdown; an error of the disk if the record cannot be written.
  absl::StatusOr<OperationSnapshot> Start(const std::string& description, Work work);

  // Get and Cancel: NOT_FOUND.
  absl::StatusOr<OperationSnapshot> Get(const std::string& id) const;
  std::vector<OperationSnapshot> List() const;     // newest first
  std::vector<OperationSnapshot> Running() const;  // those of List that have not ended
  // Asks the work to stop and returns at once. No effect on an operation that has ended.
  absl::StatusOr<OperationSnapshot> Cancel(const std::string& id);

  // Calls `on_change` with the present snapshot, then after changes (bursts may be merged; the
  // final state always comes and is the last), from an internal thread, never concurrently.
  // `on_change` must be quick: all subscriptions share that thread. Unsubscribe waits for a call in
  // progress, unless it is made from inside that call; an unknown or repeated number has no effect.
  // Error: NOT_FOUND.
  absl::StatusOr<uint64_t> Subscribe(const std::string& id,
                                     std::function<void(const OperationSnapshot&)> on_change);
  void Unsubscribe(uint64_t subscription);

  // Cancels what runs and waits until it has ended, at most until `deadline`; by default as long as
  // it takes. Work that has not ended by then is given up: its operation ends, on disk too, as if
  // it had obeyed, and what the work returns later is dropped. False if work still runs: whatever
  // it uses must then stay until this object is destroyed, or the process ends. Subscriptions still
  // get the final states. May be called more than once.
  bool Shutdown(std::chrono::steady_clock::time_point deadline =
                    std::chrono::steady_clock::time_point::max());

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace laplaced
