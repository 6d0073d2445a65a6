// Predict and Score requests on their way to the one thread that computes.
//
// Rows of requests for the same pinned model with equal options are computed together, as many as
// wait when the thread is free, in sizes of powers of two; a request of many rows is computed in
// parts, between which others have their turn (request_queue.h says whose). No request sees
// another's options, rows or errors, and the answer of a row depends on its neighbours only through
// rounding: not at all for computations of one size, at about 1e-6 of the value otherwise.
//
// Submit never blocks: it queues the request or refuses it. It refuses what would wait too long:
// more requests than `max_waiting` (then a client that has many waiting gives way to one that has
// few, and bulk requests to interactive ones), interactive requests that would wait longer than
// `max_queue_delay_seconds`, and those whose deadline would pass before their turn comes. Times are
// estimated from the computations before; what cannot be estimated yet is taken in.
//
// Every request that was queued gets exactly one call of its `done`, on the compute thread, which
// must not throw and should not take long; its inputs must live until then. A request whose context
// says stop is dropped before its next part. Thread-safe.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "server/observe/serving_metrics.h"
#include "server/serving/compute_profile.h"
#include "server/serving/pending_request.h"
#include "server/serving/request_queue.h"

namespace laplaced {

struct BatcherOptions {
  int64_t max_waiting = 256;           // requests
  int64_t max_batch_rows = 64;         // of one computation
  double max_batch_delay_seconds = 0;  // that a row may wait for company while nothing is computed
  double max_queue_delay_seconds = 0;  // 0: no limit
};

class Batcher {
 public:
  // `on_start` (may be empty) runs first on the compute thread.
  Batcher(const BatcherOptions& options, ServingMetrics& metrics, std::function<void()> on_start);
  ~Batcher();
  Batcher(const Batcher&) = delete;
  Batcher& operator=(const Batcher&) = delete;

  // REQUIRES: request.model->Validate(inputs, options) is OK. RESOURCE_EXHAUSTED with a time to
  // retry after (retry_after.h), DEADLINE_EXCEEDED or CANCELLED, UNAVAILABLE after Shutdown has
  // begun; `done` is then never called.
  absl::Status Submit(BatchRequest request, PredictOptions options, BatchDone<Prediction> done);
  absl::Status Submit(BatchRequest request, ScoreOptions options, BatchDone<Scores> done);

  // Whether a request would be refused because the queue is full or takes too long, as far as that
  // can be told before its inputs are looked at.
  absl::Status CheckRoom(Priority priority, const std::string& client) const;

  // Requests of which nothing is computed yet.
  int64_t waiting() const;

  // Computes what waits until `deadline`; then cancels what runs and answers the rest UNAVAILABLE.
  // May be called more than once and from several threads; not from `done`.
  void Shutdown(std::chrono::steady_clock::time_point deadline);

 private:
  using Clock = std::chrono::steady_clock;

  absl::Status Queue(PendingPtr pending);
  // The next five REQUIRE: mutex_ held.
  double RunningSeconds(Clock::time_point now) const;
  absl::Status CheckDelay(Priority priority, double wait) const;
  absl::Status Admit(const PendingRequest& pending);
  std::vector<BatchPart> NextBatch(Clock::time_point now, Clock::time_point* wake) const;
  int64_t MostRows(const PendingRequest& pending) const;

  void Loop();
  // Computes and answers what is complete; returns the requests that have failed.
  std::vector<PendingPtr> Compute(const std::vector<BatchPart>& parts,
                                  const ComputeContext& context, double* seconds);
  void Answer(PendingRequest& pending);
  void Drop(const PendingPtr& pending, const absl::Status& status);

  const BatcherOptions options_;
  ServingMetrics& metrics_;
  std::function<void()> on_start_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;      // a request has come, or `stopping_`
  std::condition_variable finished_;  // `done_` became true
  RequestQueue queue_;
  std::vector<PendingPtr> refused_;  // had to make room for others
  std::unordered_map<std::string, ComputeProfile> profiles_;
  std::shared_ptr<ComputeContext> running_;  // null while nothing is computed
  Clock::time_point running_until_;          // estimated
  double last_batch_seconds_ = 0;            // of the request that was admitted last
  bool idle_ = false;                        // the compute thread waits for `wake_`
  double interactive_since_bulk_ = 0;        // seconds computed since bulk had its turn
  double last_bulk_seconds_ = 0;
  bool stopping_ = false;
  bool drop_rest_ = false;
  bool done_ = false;
  std::mutex join_mutex_;
  std::thread thread_;
};

}  // namespace laplaced
