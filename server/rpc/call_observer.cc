#include "server/rpc/call_observer.h"

#include <google/protobuf/descriptor.h>
#include <grpcpp/server_context.h>
#include <inference/grpc_predict_v2.pb.h>
#include <laplace/v1/model.pb.h>
#include <laplace/v1/operation.pb.h>
#include <laplace/v1/posterior.pb.h>
#include <laplace/v1/prediction.pb.h>

#include <chrono>
#include <map>
#include <string>
#include <utility>

#include "server/observe/log.h"
#include "server/rpc/trace_context.h"

namespace laplaced {
namespace {

namespace pb = google::protobuf;
using grpc::experimental::InterceptionHookPoints;
using std::chrono::steady_clock;

// Calls that leave everything as it is; their number is the clients' choice.
constexpr const char* kQuietPrefixes[] = {"Predict", "Score", "Get", "List", "Watch"};

bool IsQuiet(const std::string& path) {
  const std::string method = path.substr(path.rfind('/') + 1);
  for (const std::string prefix : kQuietPrefixes) {
    if (method.rfind(prefix, 0) == 0) return true;
  }
  return path.rfind("/inference.", 0) == 0;
}

LogLevel LevelOf(const std::string& path, grpc::StatusCode code) {
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

// Lives as long as its call; gRPC calls it from one thread at a time.
class Observer final : public grpc::experimental::Interceptor {
 public:
  Observer(CallMetrics& metrics, const CallMetrics::Series& series,
           grpc::experimental::ServerRpcInfo* info)
      : metrics_(metrics),
        series_(series),
        path_(info->method()),
        context_(*info->server_context()) {
    metrics_.Began(series_);
  }

  ~Observer() override {
    const double seconds = std::chrono::duration<double>(steady_clock::now() - begin_).count();
    metrics_.Ended(series_, code_, seconds);
    const LogLevel level = LevelOf(path_, code_);
    if (!LogEnabled(level)) return;
    LogFields fields = {
        {"grpc_code", CallCodeName(code_)}, {"seconds", seconds}, {"request_id", request_id_}};
    if (!trace_id_.empty()) fields.emplace_back("trace_id", trace_id_);
    fields.emplace_back("peer", peer_);
    Log(level, path_.substr(1), fields);
  }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA)) {
      ReadMetadata(*methods->GetRecvInitialMetadata());
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->emplace(kRequestIdHeader, request_id_);
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_MESSAGE) &&
        methods->GetRecvMessage() != nullptr) {
      CallMetrics::Received(series_);
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_MESSAGE)) {
      CallMetrics::Sent(series_);
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      code_ = methods->GetSendStatus().error_code();
    }
    methods->Proceed();
  }

 private:
  void ReadMetadata(const std::multimap<grpc::string_ref, grpc::string_ref>& metadata) {
    const auto text = [&](const char* name) {
      const auto found = metadata.find(name);
      return found == metadata.end()
                 ? absl::string_view()
                 : absl::string_view(found->second.data(), found->second.size());
    };
    const absl::string_view id = text(kRequestIdHeader);
    request_id_ = IsRequestId(id) ? std::string(id) : NewRequestId();
    trace_id_ = TraceIdOf(text(kTraceParentHeader));
    peer_ = context_.peer();
  }

  CallMetrics& metrics_;
  const CallMetrics::Series& series_;
  const std::string path_;
  const grpc::ServerContextBase& context_;  // gone before this is
  const steady_clock::time_point begin_ = steady_clock::now();
  std::string request_id_;
  std::string trace_id_;
  std::string peer_;
  grpc::StatusCode code_ = grpc::StatusCode::CANCELLED;  // until a status is sent
};

class Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit Factory(CallMetrics& metrics) : metrics_(metrics) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    const CallMetrics::Series* series = metrics_.Find(info->method());
    return series == nullptr ? nullptr : new Observer(metrics_, *series, info);
  }

 private:
  CallMetrics& metrics_;
};

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

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeCallObserver(
    CallMetrics& metrics) {
  return std::make_unique<Factory>(metrics);
}

}  // namespace laplaced
