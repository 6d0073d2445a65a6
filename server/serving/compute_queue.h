// The bounded queue between gRPC threads and one thread that does what may take long.
//
// gRPC reactors must never block, so they submit a job and return; the queue's thread runs jobs
// first come, first served. One thread for LibTorch uses all cores through LibTorch's own pool,
// which serves two cores better than two threads that fight for them. Submit refuses with
// RESOURCE_EXHAUSTED when `max_waiting` jobs wait, and with UNAVAILABLE after Shutdown has begun; a
// refused job is destroyed without a call. Every other job gets exactly one call, on the queue's
// thread: `run`, or `drop` if its context is cancelled or past its deadline when its turn comes.
// Jobs must not throw. Thread-safe. Shutdown lets waiting jobs finish until `deadline`; then it
// cancels the context of the running job, answers the rest UNAVAILABLE, and joins the thread; the
// destructor calls it with no patience.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "absl/status/status.h"
#include "server/serving/compute_context.h"

namespace laplaced {

class ComputeQueue {
 public:
  struct Job {
    std::shared_ptr<ComputeContext> context;  // REQUIRED
    // Does the work; `queue_seconds` is how long it waited.
    std::function<void(double queue_seconds)> run;
    // Called instead of `run` when the job is dropped.
    std::function<void(const absl::Status&)> drop;
  };

  // `on_start` (may be empty) runs first on the queue's thread (thread settings).
  ComputeQueue(int64_t max_waiting, std::function<void()> on_start);
  ~ComputeQueue();
  ComputeQueue(const ComputeQueue&) = delete;
  ComputeQueue& operator=(const ComputeQueue&) = delete;

  absl::Status Submit(Job job);
  // Jobs that wait, the running one not counted.
  int64_t waiting() const;
  // Smoothed seconds per job that ran; an overloaded caller may retry after waiting() times this. 0
  // before the first.
  double mean_job_seconds() const;
  // May be called more than once and from several threads; not from a job.
  void Shutdown(std::chrono::steady_clock::time_point deadline);

 private:
  struct Entry {
    Job job;
    std::chrono::steady_clock::time_point submitted;
  };
  void Loop();
  void Process(Entry entry, bool refuse);

  const int64_t max_waiting_;
  std::function<void()> on_start_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;      // work has come, or `stopping_`
  std::condition_variable finished_;  // `done_` became true
  std::deque<Entry> entries_;
  std::shared_ptr<ComputeContext> running_;  // null while no job runs
  bool stopping_ = false;
  bool drop_rest_ = false;
  bool done_ = false;
  double mean_job_seconds_ = 0;
  std::mutex join_mutex_;
  std::thread thread_;
};

}  // namespace laplaced
