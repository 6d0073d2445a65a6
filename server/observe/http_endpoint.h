// A plain HTTP port for Prometheus and for probes:
//
//   GET /metrics          everything that Metrics holds
//   GET /v2/health/live   200 as long as the process answers
//   GET /v2/health/ready  200 while calls are served, 503 with the reason otherwise
//
// 404 for other paths, 405 for other methods; HEAD goes with GET. Has its own few threads and
// shares nothing with gRPC. One request per connection, `HttpLimits` for its size and the time from
// its acceptance to its end, so that neither slow nor greedy clients hold a thread for long;
// connections beyond `max_waiting` are closed at once. No encryption and no authentication. All
// methods are thread-safe; the handlers are called on the endpoint's threads.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace laplaced {

struct HttpHandlers {
  std::function<std::string()> metrics;    // body of /metrics
  std::function<std::string()> not_ready;  // why not, in a line; empty: ready
};

struct HttpLimits {
  size_t threads = 2;
  size_t max_waiting = 32;  // connections that wait for a thread
  size_t max_request_bytes = 16 << 10;
  std::chrono::milliseconds patience{5000};  // for one connection
};

class HttpEndpoint {
 public:
  // Listens on `listen` ("127.0.0.1:8034", "[::1]:0"; port 0 picks a free one) and answers from now
  // on. UNAVAILABLE if that is not possible.
  static absl::StatusOr<std::unique_ptr<HttpEndpoint>> Create(const std::string& listen,
                                                              HttpHandlers handlers,
                                                              const HttpLimits& limits = {});
  // Stops; connections in progress get the time that is left to them.
  ~HttpEndpoint();

  // With the port that was bound.
  const std::string& address() const { return address_; }

 private:
  class Impl;
  HttpEndpoint(std::unique_ptr<Impl> impl, std::string address);

  const std::unique_ptr<Impl> impl_;
  const std::string address_;
};

}  // namespace laplaced
