// Counts and logs every call, and gives each a request id.
//
// The id is the caller's `x-request-id` if that is fit for a log, else one of chance; it goes back
// in the answer's initial metadata, and with the caller's trace id (`traceparent`) into the log
// line that is written when the call ends: at level error for errors of the server's own (INTERNAL,
// UNKNOWN, DATA_LOSS), info for calls that change something, debug for all others, so that neither
// traffic nor overload fills a disk. Calls of services that are not ours leave no trace.
// Thread-safe.
#pragma once

#include <grpcpp/support/server_interceptor.h>

#include <memory>
#include <vector>

#include "server/observe/call_metrics.h"

namespace laplaced {

// The methods of the services of this server, from their descriptors.
std::vector<CallMethod> ServedMethods();

// For grpc::ServerBuilder; `metrics` must outlive the server.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeCallObserver(
    CallMetrics& metrics);

}  // namespace laplaced
