#include "server/serving/compute_queue.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace laplaced {
namespace {

using Clock = std::chrono::steady_clock;

// Weight of the newest job in the mean: about the last ten count.
constexpr double kNewestWeight = 0.2;

double SecondsBetween(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

ComputeQueue::ComputeQueue(int64_t max_waiting, std::function<void()> on_start)
    : max_waiting_(max_waiting), on_start_(std::move(on_start)), thread_([this] { Loop(); }) {}

ComputeQueue::~ComputeQueue() { Shutdown(Clock::time_point::min()); }

absl::Status ComputeQueue::Submit(Job job) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (stopping_) {
      return absl::UnavailableError("the server is shutting down; send the request to another");
    }
    if (static_cast<int64_t>(entries_.size()) >= max_waiting_) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the server is overloaded: ", entries_.size(),
                       " requests wait already, which is its limit; try again later"));
    }
    entries_.push_back({std::move(job), Clock::now()});
  }
  wake_.notify_one();
  return absl::OkStatus();
}

int64_t ComputeQueue::waiting() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<int64_t>(entries_.size());
}

double ComputeQueue::mean_job_seconds() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return mean_job_seconds_;
}

void ComputeQueue::Shutdown(Clock::time_point deadline) {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    stopping_ = true;
    wake_.notify_one();
    // A wait that is already over must not reach wait_until: libstdc++ converts to another clock
    // and min() overflows.
    const auto done = [this] { return done_; };
    if (deadline > Clock::now()) {
      if (deadline == Clock::time_point::max()) {
        finished_.wait(lock, done);
      } else {
        finished_.wait_until(lock, deadline, done);
      }
    }
    drop_rest_ = true;
    if (running_) running_->cancelled.store(true, std::memory_order_relaxed);
  }
  std::lock_guard<std::mutex> lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

void ComputeQueue::Loop() {
  if (on_start_) on_start_();
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopping_ || !entries_.empty(); });
    if (entries_.empty()) break;
    Entry entry = std::move(entries_.front());
    entries_.pop_front();
    const bool refuse = drop_rest_;
    running_ = entry.job.context;
    lock.unlock();
    Process(std::move(entry), refuse);
    lock.lock();
    running_.reset();
  }
  done_ = true;
  finished_.notify_all();
}

void ComputeQueue::Process(Entry entry, bool refuse) {
  if (refuse) {
    entry.job.drop(absl::UnavailableError(
        "the server shut down before it came to this request; send it to another"));
    return;
  }
  const absl::Status alive = entry.job.context->Check();
  if (!alive.ok()) {
    entry.job.drop(alive);
    return;
  }
  const Clock::time_point begin = Clock::now();
  entry.job.run(SecondsBetween(entry.submitted, begin));
  const double seconds = SecondsBetween(begin, Clock::now());
  std::lock_guard<std::mutex> lock(mutex_);
  mean_job_seconds_ = mean_job_seconds_ == 0
                          ? seconds
                          : (1 - kNewestWeight) * mean_job_seconds_ + kNewestWeight * seconds;
}

}  // namespace laplaced
