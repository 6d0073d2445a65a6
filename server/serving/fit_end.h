// The end of a fit on several ranks, as rank 0 makes it known at the meeting point.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace laplaced {

class MeetingPoint;

// Rank 0: fit `number` has ended like this, whether all ranks came to it or not.
void PostFitEnd(const MeetingPoint& meeting, int64_t number, const absl::Status& status);
bool HasFitEnded(const MeetingPoint& meeting, int64_t number);

// Looks for the end about once a second, on a thread of its own: a rank that computes for minutes
// between two calls of the others learns that its work is of no use, and never waits for the
// meeting point.
class FitEndWatch {
 public:
  // `meeting` must outlive it. RESOURCE_EXHAUSTED if the system gives no thread.
  static absl::StatusOr<std::unique_ptr<FitEndWatch>> Start(const MeetingPoint& meeting,
                                                            int64_t number);
  ~FitEndWatch();

  // UNAVAILABLE once rank 0 has given the fit up, with its reason, or has gone. OK before, and
  // after a fit that was a success: there others may have a little left to do. Thread-safe.
  absl::Status status() const;

 private:
  FitEndWatch() = default;
  void Look(const MeetingPoint& meeting, int64_t number);

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  absl::Status status_;
  std::thread thread_;
};

}  // namespace laplaced
