// Progress of work without a server, told to the log: every stage, and how far it is every ten
// seconds. Belongs to the thread that works.
#pragma once

#include <atomic>
#include <chrono>
#include <string>
#include <utility>

#include "server/observe/log.h"
#include "server/serving/operations.h"

namespace laplaced {

class LoggedProgress : public OperationHandle {
 public:
  // `speaks`: false for ranks that leave it to another. Cancelled once `stop` is set, which must
  // outlive this.
  LoggedProgress(std::string what, bool speaks, const std::atomic<bool>& stop)
      : what_(std::move(what)), speaks_(speaks), stop_(stop) {}

  bool cancelled() const override { return stop_.load(); }

  void Report(const std::string& phase, int64_t done, int64_t total, double fraction) override {
    const Clock::time_point now = Clock::now();
    const bool fresh = phase != phase_;
    if (!speaks_ || (!fresh && now < next_)) return;
    phase_ = phase;
    next_ = now + std::chrono::seconds(10);
    LogInfo(what_, {{"phase", phase},
                    {"done", done},
                    {"total", total},
                    {"percent", static_cast<int64_t>(100 * fraction)}});
  }

 private:
  using Clock = std::chrono::steady_clock;

  const std::string what_;
  const bool speaks_;
  const std::atomic<bool>& stop_;
  std::string phase_;
  Clock::time_point next_;
};

}  // namespace laplaced
