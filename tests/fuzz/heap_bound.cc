#include "tests/fuzz/heap_bound.h"

#include <atomic>

#include "absl/strings/str_cat.h"
#include "tests/fuzz/target.h"

#ifdef LAPLACED_LIBFUZZER
#include <sanitizer/allocator_interface.h>
#else
#include <malloc.h>

#include <cstdlib>
#include <new>
#endif

namespace laplaced::fuzz {
namespace {

// Whatever was there before the bound began may be freed under it, so `live` may fall below zero.
std::atomic<bool> counting{false};
std::atomic<int64_t> live{0};
std::atomic<int64_t> peak{0};
std::atomic<int64_t> last_peak{0};

void CountTaken(int64_t bytes) {
  if (!counting) return;
  const int64_t now = live += bytes;
  for (int64_t most = peak; now > most && !peak.compare_exchange_weak(most, now);) {
  }
}

void CountFreed(int64_t bytes) {
  if (counting) live -= bytes;
}

#ifdef LAPLACED_LIBFUZZER
void OnMalloc(const volatile void*, size_t bytes) { CountTaken(static_cast<int64_t>(bytes)); }
void OnFree(const volatile void* block) {
  if (counting && block != nullptr) {
    CountFreed(static_cast<int64_t>(__sanitizer_get_allocated_size(block)));
  }
}
const int installed = __sanitizer_install_malloc_and_free_hooks(OnMalloc, OnFree);
#endif

}  // namespace

HeapBound::HeapBound(size_t input_bytes, int64_t bytes_per_input_byte, int64_t fixed_bytes)
    : input_bytes_(input_bytes),
      bound_(bytes_per_input_byte * static_cast<int64_t>(input_bytes) + fixed_bytes) {
#ifdef LAPLACED_LIBFUZZER
  Require(installed > 0, "the sanitizer has no room for hooks of malloc");
#endif
  Require(!counting, "one HeapBound at a time");
  live = 0;
  peak = 0;
  counting = true;
}

HeapBound::~HeapBound() {
  counting = false;
  last_peak = peak.load();
  if (last_peak <= bound_) return;
  Require(false, absl::StrCat("held ", last_peak.load(), " bytes at once for an input of ",
                              input_bytes_, " bytes, at most ", bound_, " are allowed"));
}

int64_t LastHeapPeak() { return last_peak; }

}  // namespace laplaced::fuzz

#ifndef LAPLACED_LIBFUZZER
// What the array and nothrow forms of the standard library end in.
void* operator new(size_t bytes) {
  void* block = std::malloc(bytes == 0 ? 1 : bytes);
  if (block == nullptr) throw std::bad_alloc();
  laplaced::fuzz::CountTaken(static_cast<int64_t>(malloc_usable_size(block)));
  return block;
}
void operator delete(void* block) noexcept {
  if (block != nullptr) laplaced::fuzz::CountFreed(static_cast<int64_t>(malloc_usable_size(block)));
  std::free(block);
}
void operator delete(void* block, size_t) noexcept { operator delete(block); }
#endif
