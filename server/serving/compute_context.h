// What a running computation checks between blocks of work: has the caller gone, or has its time
// run out?
//
// `cancelled` may be set by any thread; the rest is fixed when the request is admitted.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <vector>

#include "absl/status/status.h"

namespace laplaced {

struct ComputeContext {
  std::atomic<bool> cancelled{false};
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();

  // Whose work this is, if it is that of several: it goes on until all of them say stop.
  std::vector<std::shared_ptr<const ComputeContext>> members;

  // OK, CANCELLED or DEADLINE_EXCEEDED.
  absl::Status Check() const {
    if (!members.empty() && !cancelled.load(std::memory_order_relaxed)) {
      absl::Status status;
      for (const auto& member : members) {
        status = member->Check();
        if (status.ok()) break;
      }
      return status;
    }
    if (cancelled.load(std::memory_order_relaxed)) {
      return absl::CancelledError("the client cancelled the call");
    }
    if (std::chrono::steady_clock::now() > deadline) {
      return absl::DeadlineExceededError("the deadline passed before the answer was computed");
    }
    return absl::OkStatus();
  }
};

}  // namespace laplaced
