// Many calls of one kind, to measure a server.
//
// Closed loop: a number of calls is always in flight, and each that ends is followed by another,
// one that failed after the time that the server has named (10 ms if it has not); the rate is the
// server's. Open loop: calls begin at a given rate, by chance (a Poisson process)
// or at even distances, whether the server keeps up or not, and a latency counts from the time at
// which the call was meant to begin, so that a server that stalls cannot hide it. Nothing is tried
// again. The generator takes processor time of its own: on the server's machine that is the
// server's loss. Blocks until the last call has ended; thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cpp/latency_histogram.h"
#include "client/cpp/options.h"
#include "client/cpp/types.h"

namespace laplace::client {

struct LoadOptions {
  // One of the two.
  int concurrency = 0;  // closed loop: calls in flight
  double rate = 0;      // open loop: calls per second
  bool constant_gaps = false;
  absl::Duration duration = absl::Seconds(10);
  // Calls that are meant to begin in this time before it are made, and not counted.
  absl::Duration warm_up = absl::Seconds(1);
  absl::Duration deadline = absl::Seconds(60);  // of each call
  int connections = 4;
  // Open loop: beyond these calls are not made, but counted as `not_sent`.
  int max_in_flight = 10000;
  uint64_t seed = 0;  // of the times
};

struct LoadResult {
  double seconds = 0;
  int64_t offered = 0;                   // calls that were meant to begin
  int64_t not_sent = 0;                  // of them, for want of room in flight
  double behind_seconds = 0;             // open loop: how late the generator was at most
  std::map<std::string, int64_t> codes;  // calls by outcome: "OK", "RESOURCE_EXHAUSTED", ...
  // Of the calls with the outcome OK. Overhead is latency less what the server says of queue and
  // compute.
  LatencyHistogram latency, queue, compute, overhead;

  // OK per second.
  double goodput() const {
    return seconds > 0 ? static_cast<double>(latency.count()) / seconds : 0;
  }
};

// `requests` are sent in turn. INVALID_ARGUMENT names the option, or says what is wrong with a
// request. Outcomes of calls are in the result.
absl::StatusOr<LoadResult> GenerateLoad(const std::string& target, const ClientOptions& connection,
                                        const std::vector<PredictRequest>& requests,
                                        const LoadOptions& options);
absl::StatusOr<LoadResult> GenerateLoad(const std::string& target, const ClientOptions& connection,
                                        const std::vector<ScoreRequest>& requests,
                                        const LoadOptions& options);

}  // namespace laplace::client
