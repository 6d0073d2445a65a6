// How much a deflate stream can expand at most, so that a declared size can be refused before
// memory is taken for it. Thread-safe (constants and a pure function).
#pragma once

#include <cstdint>

namespace laplaced {

// One bit for a length code of 258 bytes and one for its distance.
inline constexpr int64_t kMaxDeflateRatio = 8 * 258 / 2;

inline int64_t MaxInflatedBytes(int64_t compressed_bytes) {
  return compressed_bytes > INT64_MAX / kMaxDeflateRatio ? INT64_MAX
                                                         : compressed_bytes * kMaxDeflateRatio;
}

}  // namespace laplaced
