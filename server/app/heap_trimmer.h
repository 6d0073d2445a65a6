// Gives memory back to the system that the C library keeps after it was freed.
//
// glibc keeps what was freed in the heaps of threads other than the first, for the next allocation:
// after a burst of large answers that would be for ever. Every so often this looks how much of the
// process's own memory nothing lives in, and gives that back if it is much. Costs a few
// milliseconds then, and microseconds otherwise. Does nothing with another C library.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

namespace laplaced {

// Bytes of anonymous memory that are resident and belong to no allocation, the data of programs and
// stacks included; 0 if that is not known.
int64_t IdleHeapBytes();

class HeapTrimmer {
 public:
  HeapTrimmer();
  ~HeapTrimmer();
  HeapTrimmer(const HeapTrimmer&) = delete;
  HeapTrimmer& operator=(const HeapTrimmer&) = delete;

 private:
  void Watch();

  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::thread watcher_;
};

}  // namespace laplaced
