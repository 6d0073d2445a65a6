#include "server/rpc/call_observer.h"

#include <string>

#include "server/rpc/trace_context.h"

namespace laplaced {
namespace {

using grpc::experimental::InterceptionHookPoints;

// Lives as long as its call; gRPC calls it from one thread at a time.
class Observer final : public grpc::experimental::Interceptor {
 public:
  Observer(CallLedger& ledger, const CallMetrics::Series& series, grpc::ServerContextBase& context)
      : entry_(ledger, series), context_(context) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA)) {
      entry_.Read(*methods->GetRecvInitialMetadata(), context_.peer());
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->emplace(kRequestIdHeader, entry_.request_id());
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_MESSAGE) &&
        methods->GetRecvMessage() != nullptr) {
      entry_.Received();
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_MESSAGE)) {
      const grpc::ByteBuffer* message = methods->GetSerializedSendMessage();
      // Once as the message and once in its form on the wire.
      const size_t held = message == nullptr ? 0 : 2 * message->Length();
      entry_.Sending(context_.c_call(), static_cast<int64_t>(held));
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_SEND_MESSAGE)) {
      entry_.Taken();
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      entry_.set_code(methods->GetSendStatus().error_code());
    }
    methods->Proceed();
  }

 private:
  CallEntry entry_;
  grpc::ServerContextBase& context_;  // gone before this is
};

class Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit Factory(CallLedger& ledger) : ledger_(ledger) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    const std::string path = info->method();
    for (const char* entered : {kPredictPath, kScorePath, kModelInferPath}) {
      if (path == entered) return nullptr;
    }
    const CallMetrics::Series* series = ledger_.metrics().Find(path);
    return series == nullptr ? nullptr : new Observer(ledger_, *series, *info->server_context());
  }

 private:
  CallLedger& ledger_;
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeCallObserver(
    CallLedger& ledger) {
  return std::make_unique<Factory>(ledger);
}

}  // namespace laplaced
