// The calls of this API that a server is working on: each is counted when it begins and when it
// ends, has a request id, leaves a line in the log, is waited for by a drain, and has to take its
// answers within bounds (untaken_answers.h).
//
// The id is the caller's `x-request-id` if that is fit for a log, else one of chance; with the
// caller's trace id (`traceparent`) it goes into the log line that is written when the call ends:
// at level error for errors of the server's own (INTERNAL, UNKNOWN, DATA_LOSS), info for calls that
// change something, debug for all others, so that neither traffic nor overload fills a disk.
//
// Calls of other services (health, reflection) are not entered: their streams may last as long as
// their clients, and nothing is lost when they are cut. A ledger is thread-safe and must outlive
// its entries; an entry belongs to one thread at a time.
#pragma once

#include <grpcpp/server_context.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "absl/types/optional.h"
#include "server/observe/call_metrics.h"
#include "server/rpc/untaken_answers.h"

namespace laplaced {

// The methods of the services of this server, from their descriptors.
std::vector<CallMethod> ServedMethods();

class CallLedger {
 public:
  // `metrics` must outlive this.
  explicit CallLedger(CallMetrics& metrics) : metrics_(metrics) {}

  CallMetrics& metrics() const { return metrics_; }

  // Waits until there has been no call for a moment, in which calls that were on their way to us
  // begin, or until `deadline`. grpc::Server::Shutdown waits for connections too, and a client that
  // keeps an idle one open holds it up for seconds.
  void WaitUntilIdle(std::chrono::steady_clock::time_point deadline) const;

 private:
  friend class CallEntry;
  void Began();
  void Ended();

  CallMetrics& metrics_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  int64_t present_ = 0;
  int64_t begun_ = 0;
  UntakenAnswers untaken_;
};

// One call, from its beginning to its end.
class CallEntry {
 public:
  // `series` is of the ledger's metrics.
  CallEntry(CallLedger& ledger, const CallMetrics::Series& series);
  ~CallEntry();
  CallEntry(const CallEntry&) = delete;
  CallEntry& operator=(const CallEntry&) = delete;

  // What the caller said about the call, and who it is.
  void Read(const std::multimap<grpc::string_ref, grpc::string_ref>& metadata, std::string peer);
  const std::string& request_id() const { return request_id_; }

  void Received() { CallMetrics::Received(series_); }
  // A message is given to gRPC, and then taken by the client; until then `bytes` of memory are
  // held for it. What is not taken is given up with the call. One message at a time.
  void Sending(grpc_call* call, int64_t bytes);
  void Taken() { untaken_.reset(); }
  // CANCELLED until it is set.
  void set_code(grpc::StatusCode code) { code_ = code; }

 private:
  CallLedger& ledger_;
  const CallMetrics::Series& series_;
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  std::string request_id_;
  std::string trace_id_;
  std::string peer_;
  grpc::StatusCode code_ = grpc::StatusCode::CANCELLED;
  absl::optional<UntakenAnswers::Hold> untaken_;
};

}  // namespace laplaced
