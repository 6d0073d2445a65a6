#include "tests/fuzz/mutation.h"

#include <cstring>
#include <limits>

namespace laplaced::fuzz {
namespace {

// Sizes, counts and offsets at which code tends to break.
constexpr uint64_t kNumbers[] = {0,
                                 1,
                                 0x7f,
                                 0xff,
                                 0x7fff,
                                 0xffff,
                                 0x7fffffff,
                                 0xffffffff,
                                 0x100000000,
                                 0x7fffffffffffffff,
                                 0x8000000000000000,
                                 std::numeric_limits<uint64_t>::max()};
constexpr char kSigns[] = "{}[](),:\"'\\\n-+.e0129 ntf\0";

size_t Below(size_t limit, std::mt19937_64& random) {
  return limit == 0 ? 0 : static_cast<size_t>(random() % limit);
}

void ReplaceNumber(std::string& input, std::mt19937_64& random) {
  const size_t width = size_t{1} << Below(4, random);
  if (input.size() < width) return;
  const uint64_t number = kNumbers[Below(std::size(kNumbers), random)];
  std::memcpy(&input[Below(input.size() - width + 1, random)], &number, width);
}

void Change(std::string& input, std::mt19937_64& random) {
  const size_t at = Below(input.size(), random);
  const size_t length = Below(std::min<size_t>(input.size() - at, 16) + 1, random);
  const char sign = kSigns[Below(sizeof kSigns, random)];
  switch (Below(8, random)) {
    case 0:
      if (!input.empty()) input[at] = static_cast<char>(input[at] ^ (1 << Below(8, random)));
      break;
    case 1:
      if (!input.empty()) input[at] = sign;
      break;
    case 2:
      ReplaceNumber(input, random);
      break;
    case 3:
      input.erase(at, length);
      break;
    case 4:
      input.insert(at, input.substr(at, length));
      break;
    case 5:
      input.insert(Below(input.size() + 1, random), input.substr(at, length));
      break;
    case 6:
      input.insert(at, 1 + Below(4, random), sign);
      break;
    default:
      input.resize(Below(input.size() + 1, random));
  }
}

}  // namespace

std::string Mutated(std::string input, size_t max_bytes, std::mt19937_64& random) {
  for (size_t changes = 1 + Below(4, random); changes > 0; --changes) Change(input, random);
  if (input.size() > max_bytes) input.resize(max_bytes);
  return input;
}

}  // namespace laplaced::fuzz
