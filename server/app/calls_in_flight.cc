#include "server/app/calls_in_flight.h"

#include <grpcpp/support/server_interceptor.h>

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <utility>

#include "absl/strings/match.h"

namespace laplaced {
namespace {

using std::chrono::steady_clock;

constexpr char kOurs[] = "/laplace.", kInference[] = "/inference.";
constexpr std::chrono::milliseconds kQuiet{50};

}  // namespace

struct CallsInFlight::State {
  // Lives as long as its call.
  class Counter final : public grpc::experimental::Interceptor {
   public:
    explicit Counter(std::shared_ptr<State> state) : state_(std::move(state)) {
      std::lock_guard<std::mutex> lock(state_->mutex);
      ++state_->present;
      ++state_->begun;
      state_->changed.notify_all();
    }
    ~Counter() override {
      std::lock_guard<std::mutex> lock(state_->mutex);
      --state_->present;
      state_->changed.notify_all();
    }
    void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
      methods->Proceed();
    }

   private:
    const std::shared_ptr<State> state_;
  };

  class Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
   public:
    explicit Factory(std::shared_ptr<State> state) : state_(std::move(state)) {}
    grpc::experimental::Interceptor* CreateServerInterceptor(
        grpc::experimental::ServerRpcInfo* info) override {
      if (!absl::StartsWith(info->method(), kOurs) && !absl::StartsWith(info->method(), kInference))
        return nullptr;
      return new Counter(state_);
    }

   private:
    const std::shared_ptr<State> state_;
  };

  std::mutex mutex;
  std::condition_variable changed;
  int64_t present = 0;
  int64_t begun = 0;
};

CallsInFlight::CallsInFlight() : state_(std::make_shared<State>()) {}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> CallsInFlight::Interceptor()
    const {
  return std::make_unique<State::Factory>(state_);
}

void CallsInFlight::WaitUntilIdle(steady_clock::time_point deadline) const {
  State& state = *state_;
  std::unique_lock<std::mutex> lock(state.mutex);
  for (;;) {
    if (!state.changed.wait_until(lock, deadline, [&] { return state.present == 0; })) return;
    const int64_t before = state.begun;
    const auto quiet_until = std::min(deadline, steady_clock::now() + kQuiet);
    const bool busy =
        state.changed.wait_until(lock, quiet_until, [&] { return state.begun != before; });
    if (!busy) return;
  }
}

}  // namespace laplaced
