// Waiting for other threads in tests, without sleeping: an event that is set once, and a bounded
// wait that fails the test instead of hanging it. Thread-safe.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

namespace laplaced::test_support {

// Long enough for a sanitizer on a busy machine; only a failing test waits so long.
inline constexpr std::chrono::seconds kTestPatience{60};

class Event {
 public:
  void Set() {
    std::lock_guard<std::mutex> lock(mutex_);
    set_ = true;
    changed_.notify_all();
  }

  // False if the event did not come.
  [[nodiscard]] bool Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, kTestPatience, [this] { return set_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool set_ = false;
};

}  // namespace laplaced::test_support
