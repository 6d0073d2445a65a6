// The element types that files of weights have, and how they become those of Array.
//
// Half precision is widened to float32, small integers to int32, truth values become uint8: exact,
// all of them. Free functions, thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/array.h"

namespace laplaced {

enum class StoredElement {
  kFloat64,
  kFloat32,
  kFloat16,   // IEEE 754 binary16
  kBFloat16,  // the upper half of a float32
  kInt64,
  kInt32,
  kInt16,
  kInt8,
  kUint8,
  kBool,
};

// Bytes of one element in the file.
int64_t StoredSize(StoredElement element);

// What an element is read as.
DType ReadAs(StoredElement element);

// `count` elements that stand one after the other, not necessarily aligned, to as many of
// ReadAs(element).
void WidenElements(StoredElement element, const char* stored, int64_t count, char* out);

}  // namespace laplaced
