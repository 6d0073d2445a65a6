#include "client/cpp/load_run.h"

#include <grpcpp/generic/generic_stub.h>
#include <sys/prctl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <thread>
#include <utility>

#include "client/cpp/channel.h"
#include "client/cpp/errors.h"
#include "client/cpp/grpc_status.h"

namespace laplace::client {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

Clock::duration ToClock(absl::Duration d) {
  return std::chrono::duration_cast<Clock::duration>(absl::ToChronoNanoseconds(d));
}

absl::Status CheckLoad(const LoadOptions& options) {
  if ((options.concurrency > 0) == (options.rate > 0)) {
    return absl::InvalidArgumentError("expected either a concurrency or a rate above 0");
  }
  if (options.concurrency < 0 || !(options.rate >= 0) || options.connections < 1 ||
      options.max_in_flight < 1) {
    return absl::InvalidArgumentError(
        "expected concurrency and rate >= 0, connections and max_in_flight >= 1");
  }
  if (options.duration <= absl::ZeroDuration() || options.warm_up < absl::ZeroDuration() ||
      options.deadline <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        "expected duration and deadline above 0, and warm_up not below 0");
  }
  return absl::OkStatus();
}

// What a client waits for that does as it is told.
Clock::duration PauseAfter(const grpc::Status& status) {
  constexpr absl::Duration kUsual = absl::Milliseconds(10);
  return ToClock(RetryDelay(FromGrpcStatus(status, "", absl::ZeroDuration())).value_or(kUsual));
}

// Sleeps of this thread end when they are meant to, not up to 50 us later, while this lives.
class ExactSleep {
 public:
  ExactSleep() : usual_(prctl(PR_GET_TIMERSLACK)) { prctl(PR_SET_TIMERSLACK, 1); }
  ~ExactSleep() {
    if (usual_ > 0) prctl(PR_SET_TIMERSLACK, usual_);
  }
  ExactSleep(const ExactSleep&) = delete;
  ExactSleep& operator=(const ExactSleep&) = delete;

 private:
  const int usual_;
};

// One run. Calls end on gRPC's threads.
class Run {
 public:
  Run(std::vector<std::unique_ptr<grpc::GenericStub>> stubs, const LoadMethod& method,
      const ClientOptions& connection, const LoadOptions& options)
      : stubs_(std::move(stubs)), method_(method), connection_(connection), options_(options) {}

  LoadResult Do() {
    begin_ = Clock::now();
    start_ = begin_ + ToClock(options_.warm_up);
    end_ = start_ + ToClock(options_.duration);
    if (options_.concurrency > 0) {
      for (int i = 0; i < options_.concurrency; ++i) Start(Clock::now());
    } else {
      StartInTime();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      const Clock::time_point now = Clock::now();
      if (now >= end_) paused_.clear();
      if (paused_.empty()) {
        if (in_flight_ == 0) break;
        changed_.wait(lock);
      } else if (*paused_.begin() > now) {
        changed_.wait_until(lock, *paused_.begin());
      } else {
        paused_.erase(paused_.begin());
        lock.unlock();
        Start(now);
        lock.lock();
      }
    }
    result_.seconds = Seconds(end_ - start_);
    return std::move(result_);
  }

 private:
  struct Call {
    Clock::time_point meant;
    grpc::ClientContext context;
    grpc::ByteBuffer answer;
  };

  // The open loop.
  void StartInTime() {
    const ExactSleep exact;
    std::mt19937_64 random(options_.seed);
    std::exponential_distribution<double> chance(options_.rate);
    double at = 0;  // seconds since begin_
    for (;;) {
      at += options_.constant_gaps ? 1 / options_.rate : chance(random);
      const Clock::time_point meant = begin_ + ToClock(absl::Seconds(at));
      if (meant >= end_) return;
      std::this_thread::sleep_until(meant);
      if (Room(meant)) Start(meant);
    }
  }

  bool Room(Clock::time_point meant) {
    const double late = Seconds(Clock::now() - meant);
    std::lock_guard<std::mutex> lock(mutex_);
    const bool room = in_flight_ < options_.max_in_flight;
    if (meant < start_) return room;
    result_.behind_seconds = std::max(result_.behind_seconds, late);
    if (!room) {
      ++result_.offered;
      ++result_.not_sent;
    }
    return room;
  }

  void Start(Clock::time_point meant) {
    auto* call = new Call;
    call->meant = meant;
    // gRPC's deadlines are of another clock.
    call->context.set_deadline(std::chrono::system_clock::now() + (meant - Clock::now()) +
                               ToClock(options_.deadline));
    AddToken(connection_, call->context);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ++in_flight_;
    }
    const size_t number = next_.fetch_add(1, std::memory_order_relaxed);
    stubs_[number % stubs_.size()]->UnaryCall(
        &call->context, method_.path, {}, &method_.requests[number % method_.requests.size()],
        &call->answer, [this, call](const grpc::Status& status) { End(call, status); });
  }

  void End(Call* call, const grpc::Status& status) {
    const Clock::time_point now = Clock::now();
    const bool closed = options_.concurrency > 0 && now < end_;
    // Before this call counts as ended, so that the run goes on.
    if (closed && status.ok()) Start(now);
    const bool counts = call->meant >= start_;
    const double latency = Seconds(now - call->meant);
    ServerSeconds server;
    if (counts && status.ok() && method_.server_seconds) {
      server = method_.server_seconds(call->answer);
    }
    // A context holds its channel, and a channel that ends on a thread of gRPC's makes that thread
    // wait for itself: all contexts are gone before the run is.
    delete call;
    std::lock_guard<std::mutex> lock(mutex_);
    if (counts) Count(latency, status, server);
    if (closed && !status.ok()) paused_.insert(now + PauseAfter(status));
    // Under the lock, because the run may be gone as soon as it is released.
    if (--in_flight_ == 0 || (closed && !status.ok())) changed_.notify_all();
  }

  // REQUIRES: mutex_ held.
  void Count(double latency, const grpc::Status& status, const ServerSeconds& server) {
    ++result_.offered;
    // Codes of absl::Status and gRPC are the same numbers.
    ++result_.codes[absl::StatusCodeToString(static_cast<absl::StatusCode>(status.error_code()))];
    if (!status.ok()) return;
    result_.latency.Add(latency);
    if (!method_.server_seconds) return;
    result_.queue.Add(server.queue);
    result_.compute.Add(server.compute);
    result_.overhead.Add(latency - server.queue - server.compute);
  }

  const std::vector<std::unique_ptr<grpc::GenericStub>> stubs_;
  const LoadMethod& method_;
  const ClientOptions& connection_;
  const LoadOptions options_;
  Clock::time_point begin_, start_, end_;
  std::atomic<size_t> next_{0};

  std::mutex mutex_;
  std::condition_variable changed_;  // nothing is in flight, or `paused_`
  LoadResult result_;
  int64_t in_flight_ = 0;
  std::multiset<Clock::time_point> paused_;  // closed loop: when calls after failed ones begin
};

}  // namespace

absl::StatusOr<LoadResult> RunLoad(const std::string& target, const ClientOptions& connection,
                                   const LoadMethod& method, const LoadOptions& options) {
  if (absl::Status status = CheckLoad(options); !status.ok()) return status;
  std::vector<std::unique_ptr<grpc::GenericStub>> stubs;
  for (int i = 0; i < options.connections; ++i) {
    auto channel = MakeChannel(target, connection, /*own_connection=*/true);
    if (!channel.ok()) return channel.status();
    stubs.push_back(std::make_unique<grpc::GenericStub>(*std::move(channel)));
  }
  const auto run = std::make_unique<Run>(std::move(stubs), method, connection, options);
  return run->Do();
}

}  // namespace laplace::client
