#include "server/app/heap_trimmer.h"

#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <string>

#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
#define LAPLACED_CAN_TRIM 1
#endif

namespace laplaced {
namespace {

// Much is given back at the next look, some once a minute: memory that is used again the next
// moment costs a page fault each time.
constexpr int64_t kMuch = int64_t{64} << 20;
constexpr int64_t kSome = int64_t{4} << 20;
constexpr std::chrono::seconds kLook{5};
constexpr int kLooksForSome = 12;

// RssAnon of /proc/self/status; 0 if it has none.
int64_t AnonymousBytes() {
  std::ifstream status("/proc/self/status");
  const std::string key = "RssAnon:";
  for (std::string line; std::getline(status, line);) {
    if (line.compare(0, key.size(), key) != 0) continue;
    return std::strtoll(line.c_str() + key.size(), nullptr, 10) * 1024;
  }
  return 0;
}

}  // namespace

int64_t IdleHeapBytes() {
#ifdef LAPLACED_CAN_TRIM
  const struct mallinfo2 heap = mallinfo2();
  const auto live = static_cast<int64_t>(heap.uordblks + heap.hblkhd);
  return std::max<int64_t>(0, AnonymousBytes() - live);
#else
  return 0;
#endif
}

HeapTrimmer::HeapTrimmer() : watcher_([this] { Watch(); }) {}

HeapTrimmer::~HeapTrimmer() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  stop_.notify_all();
  watcher_.join();
}

void HeapTrimmer::Watch() {
  // What cannot be given back: pages of programs that were written to, stacks, gaps between what
  // lives.
  int64_t rest = IdleHeapBytes();
  int looks = 0;  // since memory was given back
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stop_.wait_for(lock, kLook, [this] { return stopping_; })) {
    lock.unlock();
    int64_t idle = IdleHeapBytes();
    ++looks;
    if (idle >= rest + (looks < kLooksForSome ? kMuch : kSome)) {
#ifdef LAPLACED_CAN_TRIM
      malloc_trim(0);
#endif
      rest = idle = IdleHeapBytes();
      looks = 0;
    }
    rest = std::min(rest, idle);
    lock.lock();
  }
}

}  // namespace laplaced
