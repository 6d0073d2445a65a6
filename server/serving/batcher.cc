#include "server/serving/batcher.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/serving/retry_after.h"
#include "server/serving/row_batch.h"

namespace laplaced {
namespace {

using Clock = std::chrono::steady_clock;

// Arithmetic of one part of a large request: some 50 ms on two cores, for which others wait. Fewer
// than kLeastPart rows would cost throughput.
constexpr double kPartFlops = 8e9;
constexpr int64_t kLeastPart = 8;
// Bulk requests have at least one part in this many of the compute time.
constexpr double kBulkShare = 16;

double Seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

const char* NameOf(Priority priority) {
  return priority == Priority::kBulk ? "bulk" : "interactive";
}

absl::Status ShuttingDown() {
  return absl::UnavailableError("the server is shutting down; send the request to another");
}

// The mode that was chosen for the whole request holds for its parts and whatever goes with them.
void KeepMode(const VarianceReport& plan, PredictOptions& options) {
  if (plan.mode == VarianceMode::kAuto) return;
  options.variance_mode = plan.mode;
  options.top_classes = plan.top_classes;
  options.samples = plan.samples;
}

void KeepMode(const VarianceReport& plan, ScoreOptions& options) {
  if (plan.mode == VarianceMode::kAuto) return;
  options.variance_mode = plan.mode;
  options.samples = plan.samples;
}

std::string KindOf(const std::string& model, const VarianceReport& plan,
                   const PredictOptions& options) {
  return absl::StrCat("predict ", model, " ", static_cast<int>(plan.mode), " ", plan.top_classes,
                      " ", plan.samples, " ", options.return_covariance,
                      options.return_joint_covariance, " ", options.return_samples, " ",
                      options.ood_scores.size());
}

std::string KindOf(const std::string& model, const VarianceReport& plan,
                   const ScoreOptions& options) {
  // Scores cost very different amounts.
  std::string kind =
      absl::StrCat("score ", model, " ", static_cast<int>(plan.mode), " ", plan.samples);
  for (const std::string& score : options.ood_scores) absl::StrAppend(&kind, " ", score);
  return kind;
}

template <typename Work>
PendingPtr MakePending(BatchRequest request, typename Work::Options options,
                       BatchDone<typename Work::Answer> done) {
  auto pending = std::make_shared<PendingRequest>();
  pending->batching = request.model->BatchingOf(request.inputs, options);
  const ModelInfo& info = request.model->info();
  pending->model = absl::StrCat(info.name, "/", info.version);
  pending->kind = KindOf(pending->model, pending->batching.variance, options);
  if (pending->batching.divisible) KeepMode(pending->batching.variance, options);
  pending->request = std::move(request);
  pending->work = Work{std::move(options), {}, std::move(done)};
  pending->submitted = Clock::now();
  return pending;
}

BatchTiming TimingOf(const PendingRequest& pending) {
  const double total = Seconds(Clock::now() - pending.submitted);
  return {std::max(0.0, total - pending.compute_seconds), pending.compute_seconds};
}

// What waits is computed in whole batches before a request's own, and the rest along with it.
double SecondsOfBatches(double backlog, double batch_seconds) {
  if (batch_seconds == 0) return backlog;
  constexpr double kRounding = 1e-9;
  return std::floor(backlog / batch_seconds + kRounding) * batch_seconds;
}

absl::Status TooManyWait(int64_t waiting) {
  return absl::ResourceExhaustedError(absl::StrCat("the server is overloaded: ", waiting,
                                                   " requests wait already, which is its limit "
                                                   "(max_queue); try again later"));
}

absl::Status WithRetry(absl::Status status, double seconds) {
  constexpr double kShortestSeconds = 0.01;
  return WithRetryAfter(std::move(status), std::max(seconds, kShortestSeconds));
}

}  // namespace

Batcher::Batcher(const BatcherOptions& options, ServingMetrics& metrics,
                 std::function<void()> on_start)
    : options_(options),
      metrics_(metrics),
      on_start_(std::move(on_start)),
      thread_([this] { Loop(); }) {}

Batcher::~Batcher() { Shutdown(Clock::time_point::min()); }

absl::Status Batcher::Submit(BatchRequest request, PredictOptions options,
                             BatchDone<Prediction> done) {
  return Queue(MakePending<PredictWork>(std::move(request), std::move(options), std::move(done)));
}

absl::Status Batcher::Submit(BatchRequest request, ScoreOptions options, BatchDone<Scores> done) {
  return Queue(MakePending<ScoreWork>(std::move(request), std::move(options), std::move(done)));
}

absl::Status Batcher::Queue(PendingPtr pending) {
  const absl::Status alive = pending->request.context->Check();
  if (!alive.ok()) return alive;
  bool wake = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (stopping_) return ShuttingDown();
    const auto profile = profiles_.find(pending->kind);
    if (profile != profiles_.end()) {
      const int64_t most = pending->batching.divisible ? MostRows(*pending) : pending->rows();
      pending->batch_seconds = profile->second.Seconds(most);
      pending->seconds_per_row = pending->batch_seconds / static_cast<double>(most);
    }
    absl::Status admitted = Admit(*pending);
    if (!admitted.ok()) return admitted;
    queue_.Add(std::move(pending));
    metrics_.SetWaiting(queue_.untouched());
    wake = std::exchange(idle_, false);
  }
  if (wake) wake_.notify_one();
  return absl::OkStatus();
}

double Batcher::RunningSeconds(Clock::time_point now) const {
  return running_ ? std::max(0.0, Seconds(running_until_ - now)) : 0;
}

absl::Status Batcher::CheckDelay(Priority priority, double wait) const {
  const double limit = options_.max_queue_delay_seconds;
  if (limit == 0 || priority == Priority::kBulk || wait <= limit) return absl::OkStatus();
  metrics_.CountDropped("queue_delay");
  return WithRetry(absl::ResourceExhaustedError(absl::StrFormat(
                       "the server is overloaded: the request would wait for about %.3f s, more "
                       "than its limit of %.3f (max_queue_delay_ms); try again later",
                       wait, limit)),
                   wait - limit);
}

absl::Status Batcher::Admit(const PendingRequest& pending) {
  const Priority priority = pending.request.priority;
  const std::string& client = pending.request.client;
  const double own = pending.seconds_per_row * static_cast<double>(pending.rows());
  const double backlog = queue_.SecondsAhead(priority, client, own);
  const Clock::time_point now = Clock::now();
  const double wait = RunningSeconds(now) + SecondsOfBatches(backlog, pending.batch_seconds);
  // A queue that is empty says nothing but that estimates may be wrong.
  if (backlog > 0) {
    const absl::Status delay = CheckDelay(priority, wait);
    if (!delay.ok()) return delay;
    const Clock::time_point deadline = pending.request.context->deadline;
    const double left = Seconds(deadline - now);
    if (deadline != Clock::time_point::max() && wait + own > left) {
      metrics_.CountDropped("deadline");
      return absl::DeadlineExceededError(absl::StrFormat(
          "the deadline, %.3f s away, cannot be met: the answer would take about %.3f s, %.3f of "
          "them waiting for %d requests",
          left, wait + own, wait, queue_.untouched()));
    }
  }
  last_batch_seconds_ = pending.batch_seconds;
  if (queue_.untouched() < options_.max_waiting) return absl::OkStatus();
  if (PendingPtr other = queue_.MakeRoom(priority, client)) {
    refused_.push_back(std::move(other));
    return absl::OkStatus();
  }
  metrics_.CountDropped("queue_full");
  return WithRetry(TooManyWait(queue_.untouched()), wait);
}

absl::Status Batcher::CheckRoom(Priority priority, const std::string& client) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const double backlog = queue_.SecondsAhead(priority, client, 0);
  const double wait = RunningSeconds(Clock::now()) + SecondsOfBatches(backlog, last_batch_seconds_);
  if (backlog > 0) {
    const absl::Status delay = CheckDelay(priority, wait);
    if (!delay.ok()) return delay;
  }
  if (queue_.untouched() < options_.max_waiting || queue_.CanMakeRoom(priority, client)) {
    return absl::OkStatus();
  }
  metrics_.CountDropped("queue_full");
  return WithRetry(TooManyWait(queue_.untouched()), wait);
}

int64_t Batcher::waiting() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return queue_.untouched();
}

void Batcher::Shutdown(Clock::time_point deadline) {
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

int64_t Batcher::MostRows(const PendingRequest& pending) const {
  int64_t most = std::min(options_.max_batch_rows, pending.batching.rows);
  const double flops = pending.batching.variance.estimated_flops;
  if (flops > 0) {
    const double per_row = flops / static_cast<double>(pending.rows());
    const double rows = std::min(kPartFlops / per_row, static_cast<double>(most));
    most = std::min(most, std::max(kLeastPart, static_cast<int64_t>(rows)));
  }
  const double limit = options_.max_queue_delay_seconds;
  if (limit > 0) {
    const auto profile = profiles_.find(pending.kind);
    if (profile != profiles_.end()) most = profile->second.RowsWithin(limit, most);
  }
  return PowerOfTwoUpTo(most);
}

std::vector<BatchPart> Batcher::NextBatch(Clock::time_point now, Clock::time_point* wake) const {
  const auto cap = [this](const PendingRequest& pending) { return MostRows(pending); };
  Priority priority = Priority::kInteractive;
  if (!queue_.empty(Priority::kBulk) &&
      (queue_.empty(Priority::kInteractive) ||
       interactive_since_bulk_ > (kBulkShare - 1) * last_bulk_seconds_)) {
    priority = Priority::kBulk;
  }
  std::vector<BatchPart> parts = queue_.Next(priority, cap);
  if (parts.empty() || options_.max_batch_delay_seconds == 0 || stopping_) return parts;
  const PendingRequest& first = *parts[0].pending;
  if (!first.batching.divisible) return parts;
  int64_t rows = 0;
  Clock::time_point oldest = Clock::time_point::max();
  for (const BatchPart& part : parts) {
    rows += part.count;
    oldest = std::min(oldest, part.pending->submitted);
  }
  const Clock::time_point full_at =
      oldest + std::chrono::duration_cast<Clock::duration>(
                   std::chrono::duration<double>(options_.max_batch_delay_seconds));
  if (rows >= MostRows(first) || now >= full_at) return parts;
  *wake = full_at;
  return {};
}

void Batcher::Loop() {
  if (on_start_) on_start_();
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    std::vector<PendingPtr> refused = std::exchange(refused_, {});
    std::vector<PendingPtr> dead = queue_.RemoveDead();
    std::vector<PendingPtr> rest;
    if (drop_rest_) rest = queue_.RemoveAll();
    if (!refused.empty() || !dead.empty() || !rest.empty()) {
      const int64_t waiting = queue_.untouched();
      metrics_.SetWaiting(waiting);
      lock.unlock();
      for (const PendingPtr& p : refused) Drop(p, WithRetry(TooManyWait(waiting), 0));
      for (const PendingPtr& p : dead) Drop(p, p->request.context->Check());
      for (const PendingPtr& p : rest) Drop(p, ShuttingDown());
      lock.lock();
      continue;
    }
    const Clock::time_point now = Clock::now();
    Clock::time_point wake = Clock::time_point::max();
    const std::vector<BatchPart> parts = NextBatch(now, &wake);
    if (parts.empty()) {
      const bool nothing = queue_.empty(Priority::kInteractive) && queue_.empty(Priority::kBulk);
      if (stopping_ && nothing) break;
      idle_ = true;
      if (wake == Clock::time_point::max()) {
        wake_.wait(lock, [this] { return stopping_ || !idle_; });
      } else {
        wake_.wait_until(lock, wake, [this] { return stopping_ || !idle_; });
      }
      idle_ = false;
      continue;
    }
    queue_.Take(parts);
    metrics_.SetWaiting(queue_.untouched());
    int64_t rows = 0;
    running_ = std::make_shared<ComputeContext>();
    for (const BatchPart& part : parts) {
      rows += part.count;
      running_->members.push_back(part.pending->request.context);
    }
    const PendingRequest& first = *parts[0].pending;
    const auto profile = profiles_.find(first.kind);
    const double estimate = profile == profiles_.end() ? 0 : profile->second.Seconds(rows);
    running_until_ =
        now + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(estimate));
    const std::shared_ptr<const ComputeContext> context = running_;
    lock.unlock();
    double seconds = 0;
    const std::vector<PendingPtr> failed = Compute(parts, *context, &seconds);
    lock.lock();
    running_.reset();
    for (const PendingPtr& pending : failed) {
      if (pending->rows_left() > 0) queue_.Remove(pending);
    }
    constexpr size_t kMostKinds = 256;
    if (profiles_.size() >= kMostKinds) profiles_.clear();
    if (context->Check().ok()) profiles_[first.kind].Add(rows, seconds);
    for (const BatchPart& part : parts) {
      queue_.Charge(*part.pending,
                    seconds * static_cast<double>(part.count) / static_cast<double>(rows));
    }
    if (first.request.priority == Priority::kBulk) {
      interactive_since_bulk_ = 0;
      last_bulk_seconds_ = seconds;
    } else {
      interactive_since_bulk_ += seconds;
    }
  }
  done_ = true;
  finished_.notify_all();
}

std::vector<PendingPtr> Batcher::Compute(const std::vector<BatchPart>& parts,
                                         const ComputeContext& context, double* seconds) {
  const Clock::time_point begin = Clock::now();
  const std::vector<absl::Status> statuses = ComputeParts(parts, context);
  *seconds = Seconds(Clock::now() - begin);
  int64_t rows = 0;
  std::vector<PendingPtr> failed;
  for (size_t i = 0; i < parts.size(); ++i) {
    const PendingPtr& pending = parts[i].pending;
    rows += parts[i].count;
    pending->compute_seconds += *seconds;
    if (!statuses[i].ok()) {
      Drop(pending, statuses[i]);
      failed.push_back(pending);
    } else if (pending->rows_left() == 0) {
      Answer(*pending);
    }
  }
  metrics_.ObserveBatch(parts[0].pending->model, static_cast<int64_t>(parts.size()), rows,
                        PowerOfTwoFrom(rows), *seconds);
  return failed;
}

void Batcher::Answer(PendingRequest& pending) {
  const BatchTiming timing = TimingOf(pending);
  metrics_.ObserveQueued(pending.model, NameOf(pending.request.priority), timing.queue_seconds);
  absl::visit(
      [&](auto& work) {
        work.answer.variance = pending.batching.variance;
        work.done(std::move(work.answer), timing);
      },
      pending.work);
}

void Batcher::Drop(const PendingPtr& pending, const absl::Status& status) {
  if (absl::IsCancelled(status)) metrics_.CountDropped("cancelled");
  if (absl::IsDeadlineExceeded(status)) metrics_.CountDropped("deadline");
  if (absl::IsResourceExhausted(status)) metrics_.CountDropped("queue_full");
  if (absl::IsUnavailable(status)) metrics_.CountDropped("shutdown");
  const BatchTiming timing = TimingOf(*pending);
  absl::visit([&](auto& work) { work.done(status, timing); }, pending->work);
}

}  // namespace laplaced
