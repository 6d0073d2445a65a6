#include "client/cpp/load_generator.h"

#include <grpcpp/support/status.h>

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cpp/channel.h"
#include "client/cpp/convert.h"
#include "laplace/v1/prediction.grpc.pb.h"

namespace laplace::client {
namespace {

using Stub = v1::PredictionService::Stub;

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

void Begin(Stub& stub, grpc::ClientContext* context, const v1::PredictRequest& request,
           v1::PredictResponse* response, std::function<void(grpc::Status)> done) {
  stub.async()->Predict(context, &request, response, std::move(done));
}

void Begin(Stub& stub, grpc::ClientContext* context, const v1::ScoreRequest& request,
           v1::ScoreResponse* response, std::function<void(grpc::Status)> done) {
  stub.async()->Score(context, &request, response, std::move(done));
}

// One run. Calls end on gRPC's threads.
template <typename Request, typename Response>
class Run {
 public:
  Run(std::vector<std::unique_ptr<Stub>> stubs, Request request, const ClientOptions& connection,
      const LoadOptions& options)
      : stubs_(std::move(stubs)),
        request_(std::move(request)),
        connection_(connection),
        options_(options) {}

  LoadResult Do() {
    start_ = absl::Now() + options_.warm_up;
    end_ = start_ + options_.duration;
    if (options_.concurrency > 0) {
      for (int i = 0; i < options_.concurrency; ++i) Start(absl::Now());
    } else {
      StartAtRandom();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    idle_.wait(lock, [this] { return in_flight_ == 0; });
    result_.seconds = absl::ToDoubleSeconds(options_.duration);
    for (auto* values : {&result_.latency, &result_.queue, &result_.compute, &result_.overhead}) {
      std::sort(values->begin(), values->end());
    }
    return std::move(result_);
  }

 private:
  struct Call {
    absl::Time meant;
    grpc::ClientContext context;
    Response response;
  };

  void StartAtRandom() {
    std::mt19937_64 random(options_.seed);
    std::exponential_distribution<double> gap(options_.rate);
    for (absl::Time next = absl::Now(); next < end_; next += absl::Seconds(gap(random))) {
      absl::SleepFor(next - absl::Now());
      bool room = true;
      {
        std::lock_guard<std::mutex> lock(mutex_);
        if (next >= start_) {
          result_.behind_seconds =
              std::max(result_.behind_seconds, absl::ToDoubleSeconds(absl::Now() - next));
        }
        room = in_flight_ < options_.max_in_flight;
        if (!room && next >= start_) {
          ++result_.offered;
          ++result_.not_sent;
        }
      }
      if (room) Start(next);
    }
  }

  void Start(absl::Time meant) {
    auto* call = new Call;
    call->meant = meant;
    call->context.set_deadline(absl::ToChronoTime(meant + options_.deadline));
    AddToken(connection_, call->context);
    size_t which = 0;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ++in_flight_;
      which = next_stub_++ % stubs_.size();
    }
    Begin(*stubs_[which], &call->context, request_, &call->response,
          [this, call](const grpc::Status& status) { End(call, status); });
  }

  void End(Call* call, const grpc::Status& status) {
    const absl::Time now = absl::Now();
    const std::unique_ptr<Call> owned(call);
    // Before this call counts as ended, so that the run goes on.
    if (options_.concurrency > 0 && now < end_) Start(now);
    std::lock_guard<std::mutex> lock(mutex_);
    if (call->meant >= start_) Count(*call, status, now);
    // Under the lock, because the run may be gone as soon as it is released.
    if (--in_flight_ == 0) idle_.notify_all();
  }

  void Count(const Call& call, const grpc::Status& status, absl::Time now) {
    ++result_.offered;
    // Codes of absl::Status and gRPC are the same numbers.
    ++result_.codes[absl::StatusCodeToString(static_cast<absl::StatusCode>(status.error_code()))];
    if (!status.ok()) return;
    const double latency = absl::ToDoubleSeconds(now - call.meant);
    const double queue = call.response.timing().queue_seconds(),
                 compute = call.response.timing().compute_seconds();
    result_.latency.push_back(latency);
    result_.queue.push_back(queue);
    result_.compute.push_back(compute);
    result_.overhead.push_back(latency - queue - compute);
  }

  const std::vector<std::unique_ptr<Stub>> stubs_;
  const Request request_;
  const ClientOptions& connection_;
  const LoadOptions options_;
  absl::Time start_, end_;

  std::mutex mutex_;
  std::condition_variable idle_;
  LoadResult result_;
  int64_t in_flight_ = 0;
  size_t next_stub_ = 0;
};

template <typename Response, typename Request>
absl::StatusOr<LoadResult> Generate(const std::string& target, const ClientOptions& connection,
                                    const Request& request, const LoadOptions& options) {
  if (absl::Status status = CheckLoad(options); !status.ok()) return status;
  auto message = ToProto(request);
  if (!message.ok()) return message.status();
  std::vector<std::unique_ptr<Stub>> stubs;
  for (int i = 0; i < options.connections; ++i) {
    auto channel = MakeChannel(target, connection, /*own_connection=*/true);
    if (!channel.ok()) return channel.status();
    stubs.push_back(v1::PredictionService::NewStub(*std::move(channel)));
  }
  return Run<std::decay_t<decltype(*message)>, Response>(std::move(stubs), *std::move(message),
                                                         connection, options)
      .Do();
}

}  // namespace

absl::StatusOr<LoadResult> GenerateLoad(const std::string& target, const ClientOptions& connection,
                                        const PredictRequest& request, const LoadOptions& options) {
  return Generate<v1::PredictResponse>(target, connection, request, options);
}

absl::StatusOr<LoadResult> GenerateLoad(const std::string& target, const ClientOptions& connection,
                                        const ScoreRequest& request, const LoadOptions& options) {
  return Generate<v1::ScoreResponse>(target, connection, request, options);
}

double Quantile(const std::vector<double>& sorted, double p) {
  if (sorted.empty()) return 0;
  const double rank = std::ceil(p * static_cast<double>(sorted.size())) - 1;
  return sorted[static_cast<size_t>(std::clamp(rank, 0.0, static_cast<double>(sorted.size() - 1)))];
}

}  // namespace laplace::client
