// Changes to inputs, by chance but the same for the same seed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>

namespace laplaced::fuzz {

// `input` with one to four changes: bits, bytes and numbers replaced, pieces left out, doubled or
// moved. At most `max_bytes` long.
std::string Mutated(std::string input, size_t max_bytes, std::mt19937_64& random);

}  // namespace laplaced::fuzz
