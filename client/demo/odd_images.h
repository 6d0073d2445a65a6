// Images that a network for photos of clothes has never seen: handwritten digits, and clothes that
// were spoiled.
//
// Images are uint8 arrays [N, 28, 28] with values 0 (background) to 255. Free functions;
// thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/array.h"

namespace laplace::demo {

struct LabelledImages {
  ::laplaced::Array images;     // [N, 28, 28]
  std::vector<int64_t> labels;  // [N]
};

// The UCI handwritten digits as python3-sklearn packs them: gzipped lines of 64 values from 0 to 16
// (8x8 pixels, row by row) and the digit. Enlarged to 28x28. NOT_FOUND if there is no such file,
// INVALID_ARGUMENT with the line if it is malformed.
absl::StatusOr<LabelledImages> ReadUciDigits(const std::string& path);

// Bilinear interpolation between pixel centres; what lies outside repeats the border. `image` is
// side x side.
std::vector<double> Enlarge(const std::vector<double>& image, int64_t side, int64_t new_side);

// The first `count` images turned by a quarter and covered with Gaussian noise of the given
// standard deviation (seeded).
::laplaced::Array TurnedAndNoisy(const ::laplaced::Array& images, int64_t count,
                                 double noise_stddev, uint32_t seed);

}  // namespace laplace::demo
