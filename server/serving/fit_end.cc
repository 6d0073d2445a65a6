#include "server/serving/fit_end.h"

#include <chrono>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "server/distributed/gloo_ranks.h"

namespace laplaced {
namespace {

constexpr char kDone[] = "done";

std::string EndKey(int64_t number) { return absl::StrCat("end-of-fit-", number); }

// How the fit has ended; DEADLINE_EXCEEDED if it has not.
absl::StatusOr<std::string> FindEnd(const MeetingPoint& meeting, int64_t number) {
  return meeting.Await(EndKey(number), std::chrono::milliseconds(0));
}

}  // namespace

void PostFitEnd(const MeetingPoint& meeting, int64_t number, const absl::Status& status) {
  const std::string end =
      status.ok() ? std::string(kDone) : absl::StrCat("rank 0 ended the fit: ", status.message());
  meeting.Post(EndKey(number), end).IgnoreError();
}

bool HasFitEnded(const MeetingPoint& meeting, int64_t number) {
  return FindEnd(meeting, number).ok();
}

absl::StatusOr<std::unique_ptr<FitEndWatch>> FitEndWatch::Start(const MeetingPoint& meeting,
                                                                int64_t number) {
  std::unique_ptr<FitEndWatch> watch(new FitEndWatch);
  try {
    watch->thread_ =
        std::thread([&meeting, number, raw = watch.get()] { raw->Look(meeting, number); });
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the system gives no thread for the fit (", error.what(),
                     "): raise its limit of processes or stop others"));
  }
  return watch;
}

FitEndWatch::~FitEndWatch() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

absl::Status FitEndWatch::status() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return status_;
}

void FitEndWatch::Look(const MeetingPoint& meeting, int64_t number) {
  constexpr std::chrono::seconds kPause{1};
  std::unique_lock<std::mutex> lock(mutex_);
  while (!changed_.wait_for(lock, kPause, [this] { return stop_; })) {
    lock.unlock();
    const auto end = FindEnd(meeting, number);
    lock.lock();
    if (absl::IsDeadlineExceeded(end.status())) continue;
    if (!end.ok()) {
      status_ = end.status();
    } else if (*end != kDone) {
      status_ = absl::UnavailableError(*end);
    }
    return;
  }
}

}  // namespace laplaced
