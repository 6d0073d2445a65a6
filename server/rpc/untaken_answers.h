// Answers that were given to gRPC and that their clients have not taken yet.
//
// A client that keeps its connection open and does not read holds the memory of its answers for as
// long as it likes, and may ask for more of them: gRPC bounds neither. So a call whose answer has
// been waiting for `patience` is ended, and of those that have been waiting for `pressed_patience`
// the oldest, while all that wait are more than `max_bytes` together: slow clients lose their
// answers before the server its memory. An ended call has RESOURCE_EXHAUSTED.
//
// Thread-safe; must outlive its holds. A thread of its own looks once a second.
#pragma once

#include <grpc/grpc.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <list>
#include <mutex>
#include <thread>

namespace laplaced {

struct UntakenLimits {
  int64_t max_bytes = int64_t{256} << 20;
  std::chrono::steady_clock::duration patience = std::chrono::seconds(60);
  // What an answer of the largest size takes over a network that is worth the name.
  std::chrono::steady_clock::duration pressed_patience = std::chrono::seconds(2);
};

class UntakenAnswers {
  struct Answer {
    grpc_call* call;  // counted
    int64_t bytes;
    std::chrono::steady_clock::time_point since;
    bool ended = false;
  };

 public:
  explicit UntakenAnswers(const UntakenLimits& limits = {});
  ~UntakenAnswers();
  UntakenAnswers(const UntakenAnswers&) = delete;
  UntakenAnswers& operator=(const UntakenAnswers&) = delete;

  // An answer is on its way for as long as this lives. `call` need not be alive when it ends.
  class Hold {
   public:
    Hold(UntakenAnswers& answers, grpc_call* call, int64_t bytes);
    ~Hold();
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

   private:
    UntakenAnswers& answers_;
    std::list<Answer>::iterator answer_;
  };

  // Ends the calls that have had their time at `now`; returns how many.
  int EndSlow(std::chrono::steady_clock::time_point now);

  // Of the answers that wait, ended ones included, because their memory is still there.
  int64_t bytes() const;

 private:
  void Watch();

  const UntakenLimits limits_;
  mutable std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::list<Answer> answers_;  // the oldest first
  int64_t bytes_ = 0;
  std::thread watcher_;
};

}  // namespace laplaced
