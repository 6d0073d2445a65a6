#include "server/rpc/untaken_answers.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "server/observe/log.h"

namespace laplaced {
namespace {

using std::chrono::steady_clock;

constexpr std::chrono::seconds kLook{1};
constexpr char kTooSlow[] =
    "the answer was not read in time: read answers while you ask for more, or ask for fewer at "
    "once";

}  // namespace

UntakenAnswers::UntakenAnswers(const UntakenLimits& limits)
    : limits_(limits), watcher_([this] { Watch(); }) {}

UntakenAnswers::~UntakenAnswers() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  stop_.notify_all();
  watcher_.join();
}

UntakenAnswers::Hold::Hold(UntakenAnswers& answers, grpc_call* call, int64_t bytes)
    : answers_(answers) {
  grpc_call_ref(call);
  std::lock_guard<std::mutex> lock(answers_.mutex_);
  answers_.bytes_ += bytes;
  answer_ = answers_.answers_.insert(answers_.answers_.end(), {call, bytes, steady_clock::now()});
}

UntakenAnswers::Hold::~Hold() {
  grpc_call* const call = answer_->call;
  {
    std::lock_guard<std::mutex> lock(answers_.mutex_);
    answers_.bytes_ -= answer_->bytes;
    answers_.answers_.erase(answer_);
  }
  grpc_call_unref(call);
}

int UntakenAnswers::EndSlow(steady_clock::time_point now) {
  // Ending a call may end its hold on this very thread, which takes the lock.
  std::vector<grpc_call*> slow;
  int64_t slow_bytes = 0;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    int64_t waiting = 0;
    for (const Answer& answer : answers_) waiting += answer.ended ? 0 : answer.bytes;
    for (Answer& answer : answers_) {
      const auto age = now - answer.since;
      if (age < limits_.pressed_patience) break;
      if (answer.ended || (age < limits_.patience && waiting <= limits_.max_bytes)) continue;
      answer.ended = true;
      waiting -= answer.bytes;
      slow_bytes += answer.bytes;
      grpc_call_ref(answer.call);
      slow.push_back(answer.call);
    }
  }
  for (grpc_call* call : slow) {
    grpc_call_cancel_with_status(call, GRPC_STATUS_RESOURCE_EXHAUSTED, kTooSlow, nullptr);
    grpc_call_unref(call);
  }
  if (!slow.empty()) {
    LogWarning(absl::StrCat("ended ", slow.size(), " calls whose answers, ", slow_bytes,
                            " bytes, their clients did not read in time"));
  }
  return static_cast<int>(slow.size());
}

int64_t UntakenAnswers::bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return bytes_;
}

void UntakenAnswers::Watch() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stop_.wait_for(lock, kLook, [this] { return stopping_; })) {
    if (answers_.empty()) continue;
    lock.unlock();
    EndSlow(steady_clock::now());
    lock.lock();
  }
}

}  // namespace laplaced
