#include "server/observe/call_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include "absl/strings/str_cat.h"
#include "server/observe/register.h"

namespace laplaced {
namespace {

constexpr const char* kCodeNames[CallMetrics::kCodes] = {
    "OK",       "Canceled",       "Unknown",          "InvalidArgument",   "DeadlineExceeded",
    "NotFound", "AlreadyExists",  "PermissionDenied", "ResourceExhausted", "FailedPrecondition",
    "Aborted",  "OutOfRange",     "Unimplemented",    "Internal",          "Unavailable",
    "DataLoss", "Unauthenticated"};
constexpr int kUnknown = 2;

int Known(int code) { return code >= 0 && code < CallMetrics::kCodes ? code : kUnknown; }

}  // namespace

const char* CallCodeName(int code) { return kCodeNames[Known(code)]; }

CallMetrics::CallMetrics(Metrics& metrics, const std::vector<CallMethod>& methods) {
  prometheus::Registry& to = metrics.registry();
  auto& started =
      Register(prometheus::BuildCounter(), to, "grpc_server_started_total", "Calls that began");
  auto& handled = Register(prometheus::BuildCounter(), to, "grpc_server_handled_total",
                           "Calls that ended, by status code");
  auto& received = Register(prometheus::BuildCounter(), to, "grpc_server_msg_received_total",
                            "Messages received");
  auto& sent =
      Register(prometheus::BuildCounter(), to, "grpc_server_msg_sent_total", "Messages sent");
  auto& seconds = Register(prometheus::BuildHistogram(), to, "grpc_server_handling_seconds",
                           "Time from the beginning of a call to its end");
  in_flight_ = &Register(prometheus::BuildGauge(), to, "laplaced_calls_in_flight",
                         "Calls that have begun and not ended")
                    .Add({});
  for (const CallMethod& method : methods) {
    prometheus::Labels labels = {{"grpc_type", method.type},
                                 {"grpc_service", method.service},
                                 {"grpc_method", method.method}};
    const std::string path = absl::StrCat("/", method.service, "/", method.method);
    Series series{path,
                  &started.Add(labels),
                  &received.Add(labels),
                  &sent.Add(labels),
                  &seconds.Add(labels, SecondsBuckets()),
                  {}};
    for (int code = 0; code < kCodes; ++code) {
      labels["grpc_code"] = kCodeNames[code];
      series.handled[static_cast<size_t>(code)] = &handled.Add(labels);
    }
    series_[path] = series;
  }
}

CallMetrics::~CallMetrics() = default;

const CallMetrics::Series* CallMetrics::Find(const std::string& path) const {
  const auto found = series_.find(path);
  return found == series_.end() ? nullptr : &found->second;
}

void CallMetrics::Began(const Series& series) {
  series.started->Increment();
  in_flight_->Increment();
}

void CallMetrics::Ended(const Series& series, int code, double seconds) {
  series.handled[static_cast<size_t>(Known(code))]->Increment();
  series.seconds->Observe(seconds);
  in_flight_->Decrement();
}

void CallMetrics::Received(const Series& series) { series.received->Increment(); }

void CallMetrics::Sent(const Series& series) { series.sent->Increment(); }

}  // namespace laplaced
