#include "formats/stored_element.h"

#include <cstring>

namespace laplaced {
namespace {

struct Row {
  int64_t size;
  DType read_as;
};

constexpr Row kRows[] = {
    {8, DType::kFloat64}, {4, DType::kFloat32}, {2, DType::kFloat32}, {2, DType::kFloat32},
    {8, DType::kInt64},   {4, DType::kInt32},   {2, DType::kInt32},   {1, DType::kInt32},
    {1, DType::kUint8},   {1, DType::kUint8},
};

uint32_t Float32BitsOfFloat16(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 0x1f;
  uint32_t fraction = half & 0x3ff;
  if (exponent == 0x1f) return sign | 0x7f800000 | fraction << 13;  // infinite or not a number
  if (exponent != 0) return sign | (exponent + 112) << 23 | fraction << 13;
  if (fraction == 0) return sign;
  uint32_t shifted = 113;  // subnormal: the leading one moves to where float32 leaves it out
  while ((fraction & 0x400) == 0) {
    fraction <<= 1;
    --shifted;
  }
  return sign | shifted << 23 | (fraction & 0x3ff) << 13;
}

template <typename From, typename To, typename Convert>
void ConvertAll(const char* stored, int64_t count, char* out, Convert convert) {
  for (int64_t i = 0; i < count; ++i) {
    From from;
    std::memcpy(&from, stored + i * static_cast<int64_t>(sizeof from), sizeof from);
    const To to = convert(from);
    std::memcpy(out + i * static_cast<int64_t>(sizeof to), &to, sizeof to);
  }
}

}  // namespace

int64_t StoredSize(StoredElement element) { return kRows[static_cast<size_t>(element)].size; }

DType ReadAs(StoredElement element) { return kRows[static_cast<size_t>(element)].read_as; }

void WidenElements(StoredElement element, const char* stored, int64_t count, char* out) {
  if (count == 0) return;
  switch (element) {
    case StoredElement::kFloat16:
      return ConvertAll<uint16_t, uint32_t>(stored, count, out, Float32BitsOfFloat16);
    case StoredElement::kBFloat16:
      return ConvertAll<uint16_t, uint32_t>(
          stored, count, out, [](uint16_t upper) { return static_cast<uint32_t>(upper) << 16; });
    case StoredElement::kInt16:
      return ConvertAll<int16_t, int32_t>(stored, count, out, [](int16_t v) { return v; });
    case StoredElement::kInt8:
      return ConvertAll<int8_t, int32_t>(stored, count, out, [](int8_t v) { return v; });
    case StoredElement::kBool:
      return ConvertAll<uint8_t, uint8_t>(stored, count, out,
                                          [](uint8_t v) { return static_cast<uint8_t>(v != 0); });
    default:
      std::memcpy(out, stored, static_cast<size_t>(count * StoredSize(element)));
  }
}

}  // namespace laplaced
