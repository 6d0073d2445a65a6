// A peer that speaks just enough HTTP/2 to take calls and reset each of them without a status, as a
// proxy does when the server behind it is gone. gRPC's own server cannot: it ends every call with a
// status. One connection at a time; ends with the object.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>

namespace laplace::client {

class ResettingServer {
 public:
  // `error_code` is one of RFC 9113, section 7.
  explicit ResettingServer(uint8_t error_code);
  ~ResettingServer();
  ResettingServer(const ResettingServer&) = delete;
  ResettingServer& operator=(const ResettingServer&) = delete;

  const std::string& address() const { return address_; }
  int calls() const { return calls_; }

 private:
  void Serve();
  void ServeConnection(int connection);

  const uint8_t error_code_;
  std::string address_;
  int listener_ = -1;
  std::atomic<int> connection_{-1};
  std::atomic<bool> stopping_{false};
  std::atomic<int> calls_{0};
  std::thread thread_;
};

}  // namespace laplace::client
