// Integers that nodes of LibTorch's graph saved: plain in 1.13, c10::SymInt in 2.x. Outside of
// tracing and compiling every one of them is a plain number.
#pragma once

#include <c10/core/SymInt.h>

#include <cstdint>
#include <vector>

namespace laplaced {

inline int64_t PlainInt(int64_t value) { return value; }
inline int64_t PlainInt(const c10::SymInt& value) { return value.expect_int(); }

template <typename Int>
std::vector<int64_t> PlainInts(const std::vector<Int>& values) {
  std::vector<int64_t> plain;
  plain.reserve(values.size());
  for (const Int& value : values) plain.push_back(PlainInt(value));
  return plain;
}

}  // namespace laplaced
