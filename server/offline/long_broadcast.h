// A text that rank 0 may take hours to find while the other ranks wait for it, longer than one of
// their calls may take. Belongs to one thread.
#pragma once

#include <atomic>
#include <chrono>
#include <string>

#include "absl/status/status.h"
#include "server/linalg/ranks.h"

namespace laplaced {

class LongBroadcast {
 public:
  // Rank 0 lets the others hear of it every `interval`, which should be well below the time that
  // a call of theirs may take. `ranks` must outlive this.
  LongBroadcast(const Ranks& ranks, std::chrono::duration<double> interval)
      : ranks_(ranks), interval_(interval) {}

  // On rank 0, again and again until it has found the text. UNAVAILABLE if a rank was lost.
  absl::Status StillSearching();

  // On all ranks, once: `text` becomes that of rank 0. The others end with CANCELLED when they hear
  // of rank 0 and `stop` is set.
  absl::Status Finish(const std::atomic<bool>& stop, std::string& text);

 private:
  using Clock = std::chrono::steady_clock;

  const Ranks& ranks_;
  const std::chrono::duration<double> interval_;
  Clock::time_point last_ = Clock::now();
};

}  // namespace laplaced
