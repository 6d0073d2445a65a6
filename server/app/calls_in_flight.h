// How many calls of this API a gRPC server is working on, so that a drain ends with the last of
// them.
//
// grpc::Server::Shutdown waits for connections too, and a client that keeps an idle one open holds
// it up for seconds. Calls of other services (health, reflection) are not counted: their streams
// may last as long as their clients, and nothing is lost when they are cut. A call counts until
// gRPC has sent its answer. Thread-safe.
#pragma once

#include <grpcpp/support/server_interceptor.h>

#include <chrono>
#include <memory>

namespace laplaced {

class CallsInFlight {
 public:
  CallsInFlight();

  // Counts the calls of the server whose builder gets it.
  std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> Interceptor() const;

  // Waits until there has been no call for a moment, in which calls that were on their way to us
  // begin, or until `deadline`.
  void WaitUntilIdle(std::chrono::steady_clock::time_point deadline) const;

 private:
  struct State;
  std::shared_ptr<State> state_;  // shared with the calls
};

}  // namespace laplaced
