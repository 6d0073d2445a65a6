// A peer that speaks just enough HTTP/2 to take calls and end each of them without a status, as a
// proxy does when the server behind it is gone. gRPC's own server cannot: it ends every call with a
// status. One connection at a time; ends with the object.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>

#include "absl/types/optional.h"

namespace laplace::client {

class StatuslessServer {
 public:
  // Resets calls with this code of RFC 9113, section 7; without one it begins an answer and ends
  // it, every other call with trailers that have no status.
  explicit StatuslessServer(absl::optional<uint8_t> reset_code);
  ~StatuslessServer();
  StatuslessServer(const StatuslessServer&) = delete;
  StatuslessServer& operator=(const StatuslessServer&) = delete;

  const std::string& address() const { return address_; }
  int calls() const { return calls_; }

 private:
  void Serve();
  void ServeConnection(int connection);

  const absl::optional<uint8_t> reset_code_;
  std::string address_;
  int listener_ = -1;
  std::atomic<int> connection_{-1};
  std::atomic<bool> stopping_{false};
  std::atomic<int> calls_{0};
  std::thread thread_;
};

}  // namespace laplace::client
