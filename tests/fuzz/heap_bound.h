// The most memory that a piece of code may hold at once.
//
// While a HeapBound lives, bytes that are allocated and not yet freed are counted, on all threads;
// its destructor requires their peak to lie within the bound. With libFuzzer every malloc counts,
// else (fuzz_replay_test) what operator new gives, so not what C libraries take. One at a time.
#pragma once

#include <cstddef>
#include <cstdint>

namespace laplaced::fuzz {

class HeapBound {
 public:
  // At most `bytes_per_input_byte` times `input_bytes`, and `fixed_bytes`.
  HeapBound(size_t input_bytes, int64_t bytes_per_input_byte, int64_t fixed_bytes);
  ~HeapBound();

  HeapBound(const HeapBound&) = delete;
  HeapBound& operator=(const HeapBound&) = delete;

 private:
  const size_t input_bytes_;
  const int64_t bound_;
};

// For the test of this class: the peak of the bound that ended last.
int64_t LastHeapPeak();

}  // namespace laplaced::fuzz
