// Predict calls that a test starts on threads of their own, to look at the server while they are
// under way.
//
// Owned by the test; the destructor waits for the answer.
#pragma once

#include <grpcpp/grpcpp.h>
#include <laplace/v1/prediction.grpc.pb.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "tests/support/event.h"
#include "tests/support/test_server.h"

namespace laplaced::test_support {

class PredictCall {
 public:
  explicit PredictCall(TestServer& server, std::chrono::milliseconds timeout = kTestPatience) {
    context_.set_deadline(std::chrono::system_clock::now() + timeout);
    thread_ = std::thread([this, &server] {
      status_ = server.predictions->Predict(&context_, GoodPredictRequest(), &response_);
    });
  }
  ~PredictCall() {
    if (thread_.joinable()) thread_.join();
  }

  void Cancel() { context_.TryCancel(); }
  const grpc::Status& Wait() {
    if (thread_.joinable()) thread_.join();
    return status_;
  }
  const laplace::v1::PredictResponse& response() const { return response_; }

 private:
  grpc::ClientContext context_;
  laplace::v1::PredictResponse response_;
  grpc::Status status_;
  std::thread thread_;
};

// Holds every computation of a server up until it is released, and counts them.
class ComputeGate {
 public:
  explicit ComputeGate(TestServer& server) {
    server.host->SetComputeHook([this](const ComputeContext&) {
      ++started_;
      entered_.Set();
      EXPECT_TRUE(open_.Wait());
      return absl::OkStatus();
    });
  }
  ~ComputeGate() { Open(); }

  [[nodiscard]] bool WaitUntilEntered() { return entered_.Wait(); }
  void Open() { open_.Set(); }
  int started() const { return started_; }

 private:
  std::atomic<int> started_{0};
  Event entered_;
  Event open_;
};

// False if the number of waiting requests never became `count`.
[[nodiscard]] inline bool WaitForQueue(const TestServer& server, int64_t count) {
  const auto give_up = std::chrono::steady_clock::now() + kTestPatience;
  while (server.server->waiting_requests() != count) {
    if (std::chrono::steady_clock::now() > give_up) return false;
    std::this_thread::yield();
  }
  return true;
}

}  // namespace laplaced::test_support
