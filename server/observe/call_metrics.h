// gRPC calls in numbers, under the names and labels that dashboards for gRPC servers know:
//
//   grpc_server_started_total        calls that began
//   grpc_server_handled_total        calls that ended, also by grpc_code ("OK", "NotFound", ...)
//   grpc_server_msg_received_total   messages that came
//   grpc_server_msg_sent_total       messages that were sent
//   grpc_server_handling_seconds     histogram: from a call's beginning to its end
//
// each with grpc_type (unary, client_stream, server_stream, bidi_stream), grpc_service and
// grpc_method; and laplaced_calls_in_flight without labels.
//
// Every method has its series from the beginning, so that a rate is 0 before the first error, and
// calls of methods that do not exist make none. Thread-safe; no lock but the metrics' own.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "server/observe/metrics.h"

namespace prometheus {
class Counter;
class Gauge;
class Histogram;
}  // namespace prometheus

namespace laplaced {

struct CallMethod {
  std::string type;     // "unary", ...
  std::string service;  // "laplace.v1.PredictionService"
  std::string method;   // "Predict"
};

class CallMetrics {
 public:
  static constexpr int kCodes = 17;

  // What is counted of one method.
  struct Series {
    std::string path;  // "/laplace.v1.PredictionService/Predict"
    prometheus::Counter* started;
    prometheus::Counter* received;
    prometheus::Counter* sent;
    prometheus::Histogram* seconds;
    std::array<prometheus::Counter*, kCodes> handled;  // by status code
  };

  // `metrics` must outlive this.
  CallMetrics(Metrics& metrics, const std::vector<CallMethod>& methods);
  ~CallMetrics();

  // Null for a path that is of none of the methods.
  const Series* Find(const std::string& path) const;

  void Began(const Series& series);
  // `code` is a gRPC status code; what is none counts as UNKNOWN.
  void Ended(const Series& series, int code, double seconds);
  static void Received(const Series& series);
  static void Sent(const Series& series);

 private:
  std::unordered_map<std::string, Series> series_;
  prometheus::Gauge* in_flight_;
};

// "DeadlineExceeded" for 4.
const char* CallCodeName(int code);

}  // namespace laplaced
