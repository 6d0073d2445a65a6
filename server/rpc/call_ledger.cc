#include "server/rpc/call_ledger.h"

#include <google/protobuf/descriptor.h>
#include <inference/grpc_predict_v2.pb.h>
#include <laplace/v1/model.pb.h>
#include <laplace/v1/operation.pb.h>
#include <laplace/v1/posterior.pb.h>
#include <laplace/v1/prediction.pb.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "server/observe/log.h"
#include "server/rpc/trace_context.h"

namespace laplaced {
namespace {

namespace pb = google::protobuf;
using std::chrono::steady_clock;

// How long a drain waits for calls that are on their way.
constexpr std::chrono::milliseconds kQuiet{50};

// Calls that leave everything as it is; their number is the clients' choice.
constexpr const char* kQuietPrefixes[] = {"Predict", "Score", "Get", "List", "Watch"};

bool IsQuiet(absl::string_view path) {
  const absl::string_view method = path.substr(path.rfind('/') + 1);
  for (const absl::string_view prefix : kQuietPrefixes) {
    if (absl::StartsWith(method, prefix)) return true;
  }
  return absl::StartsWith(path, "/inference.");
}

LogLevel LevelOf(absl::string_view path, grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::INTERNAL:
    case grpc::StatusCode::UNKNOWN:
    case grpc::StatusCode::DATA_LOSS:
      return LogLevel::kError;
    case grpc::StatusCode::UNAUTHENTICATED:
    case grpc::StatusCode::PERMISSION_DENIED:
      return LogLevel::kDebug;
    default:
      return IsQuiet(path) ? LogLevel::kDebug : LogLevel::kInfo;
  }
}

void AddMethods(const pb::FileDescriptor& file, std::vector<CallMethod>& methods) {
  for (int i = 0; i < file.service_count(); ++i) {
    const pb::ServiceDescriptor& service = *file.service(i);
    for (int j = 0; j < service.method_count(); ++j) {
      const pb::MethodDescriptor& method = *service.method(j);
      const char* type = method.client_streaming()
                             ? (method.server_streaming() ? "bidi_stream" : "client_stream")
                             : (method.server_streaming() ? "server_stream" : "unary");
      methods.push_back({type, service.full_name(), method.name()});
    }
  }
}

}  // namespace

std::vector<CallMethod> ServedMethods() {
  std::vector<CallMethod> methods;
  AddMethods(*laplace::v1::PredictRequest::descriptor()->file(), methods);
  AddMethods(*laplace::v1::Model::descriptor()->file(), methods);
  AddMethods(*laplace::v1::Posterior::descriptor()->file(), methods);
  AddMethods(*laplace::v1::Operation::descriptor()->file(), methods);
  AddMethods(*inference::ModelInferRequest::descriptor()->file(), methods);
  return methods;
}

void CallLedger::Began() {
  std::lock_guard<std::mutex> lock(mutex_);
  ++present_;
  ++begun_;
  changed_.notify_all();
}

void CallLedger::Ended() {
  std::lock_guard<std::mutex> lock(mutex_);
  --present_;
  changed_.notify_all();
}

void CallLedger::WaitUntilIdle(steady_clock::time_point deadline) const {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    if (!changed_.wait_until(lock, deadline, [&] { return present_ == 0; })) return;
    const int64_t before = begun_;
    const auto quiet_until = std::min(deadline, steady_clock::now() + kQuiet);
    const bool busy = changed_.wait_until(lock, quiet_until, [&] { return begun_ != before; });
    if (!busy) return;
  }
}

CallEntry::CallEntry(CallLedger& ledger, const CallMetrics::Series& series)
    : ledger_(ledger), series_(series) {
  ledger_.metrics_.Began(series_);
  ledger_.Began();
}

CallEntry::~CallEntry() {
  untaken_.reset();
  const double seconds = std::chrono::duration<double>(steady_clock::now() - begin_).count();
  ledger_.metrics_.Ended(series_, code_, seconds);
  const LogLevel level = LevelOf(series_.path, code_);
  if (LogEnabled(level)) {
    LogFields fields = {
        {"grpc_code", CallCodeName(code_)}, {"seconds", seconds}, {"request_id", request_id_}};
    if (!trace_id_.empty()) fields.emplace_back("trace_id", trace_id_);
    fields.emplace_back("peer", peer_);
    Log(level, series_.path.substr(1), fields);
  }
  ledger_.Ended();
}

void CallEntry::Sending(grpc_call* call, int64_t bytes) {
  CallMetrics::Sent(series_);
  untaken_.emplace(ledger_.untaken_, call, bytes);
}

void CallEntry::Read(const std::multimap<grpc::string_ref, grpc::string_ref>& metadata,
                     std::string peer) {
  const auto text = [&](const char* name) {
    const auto found = metadata.find(name);
    return found == metadata.end() ? absl::string_view()
                                   : absl::string_view(found->second.data(), found->second.size());
  };
  const absl::string_view id = text(kRequestIdHeader);
  request_id_ = IsRequestId(id) ? std::string(id) : NewRequestId();
  trace_id_ = TraceIdOf(text(kTraceParentHeader));
  peer_ = std::move(peer);
}

}  // namespace laplaced
