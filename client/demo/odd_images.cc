#include "client/demo/odd_images.h"

#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace laplace::demo {
namespace {

constexpr int64_t kSmall = 8;
constexpr int64_t kSide = 28;
constexpr double kInk = 16;  // darkest value of the digits

uint8_t Pixel(double value) {
  return static_cast<uint8_t>(std::lround(std::clamp(value, 0.0, 255.0)));
}

// One line into 64 values and a label; false if it is malformed.
bool ParseLine(absl::string_view line, std::vector<double>& pixels, int64_t& label) {
  const std::vector<absl::string_view> fields = absl::StrSplit(line, ',');
  if (fields.size() != kSmall * kSmall + 1) return false;
  pixels.clear();
  for (size_t i = 0; i + 1 < fields.size(); ++i) {
    double value = 0;
    if (!absl::SimpleAtod(fields[i], &value) || !(value >= 0 && value <= kInk)) return false;
    pixels.push_back(value);
  }
  double digit = 0;
  if (!absl::SimpleAtod(fields.back(), &digit) || !(digit >= 0 && digit <= 9)) return false;
  label = static_cast<int64_t>(digit);
  return true;
}

}  // namespace

std::vector<double> Enlarge(const std::vector<double>& image, int64_t side, int64_t new_side) {
  struct Neighbours {
    int64_t low;
    int64_t high;
    double weight;  // of `high`
  };
  std::vector<Neighbours> axis;
  for (int64_t i = 0; i < new_side; ++i) {
    const double centre = (i + 0.5) * side / new_side - 0.5;
    const double at = std::clamp(centre, 0.0, side - 1.0);
    const int64_t low = static_cast<int64_t>(at);
    axis.push_back({low, std::min(low + 1, side - 1), at - low});
  }
  std::vector<double> enlarged;
  for (const Neighbours& y : axis) {
    for (const Neighbours& x : axis) {
      const double* upper = image.data() + y.low * side;
      const double* lower = image.data() + y.high * side;
      const double top = upper[x.low] * (1 - x.weight) + upper[x.high] * x.weight;
      const double bottom = lower[x.low] * (1 - x.weight) + lower[x.high] * x.weight;
      enlarged.push_back(top * (1 - y.weight) + bottom * y.weight);
    }
  }
  return enlarged;
}

absl::StatusOr<LabelledImages> ReadUciDigits(const std::string& path) {
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), gzclose);
  if (!file) return absl::NotFoundError(absl::StrCat(path, ": cannot be opened"));
  LabelledImages digits;
  std::vector<double> pixels;
  char line[1024];
  for (int64_t number = 1; gzgets(file.get(), line, sizeof(line)); ++number) {
    int64_t label = 0;
    if (!ParseLine(absl::StripAsciiWhitespace(line), pixels, label)) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": line ", number, ": expected 64 values from 0 to 16 and a digit"));
    }
    for (double value : Enlarge(pixels, kSmall, kSide)) {
      digits.images.bytes.push_back(static_cast<char>(Pixel(value * 255 / kInk)));
    }
    digits.labels.push_back(label);
  }
  int error = Z_OK;
  const char* message = gzerror(file.get(), &error);
  if (error != Z_OK && error != Z_STREAM_END) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", message));
  }
  if (digits.labels.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": is empty"));
  digits.images.dtype = ::laplaced::DType::kUint8;
  digits.images.shape = {static_cast<int64_t>(digits.labels.size()), kSide, kSide};
  return digits;
}

::laplaced::Array TurnedAndNoisy(const ::laplaced::Array& images, int64_t count,
                                 double noise_stddev, uint32_t seed) {
  ::laplaced::Array spoiled;
  spoiled.dtype = ::laplaced::DType::kUint8;
  spoiled.shape = {std::min(count, images.rows()), kSide, kSide};
  std::mt19937 engine(seed);
  std::normal_distribution<double> noise(0, noise_stddev);
  for (int64_t n = 0; n < spoiled.rows(); ++n) {
    const uint8_t* image = images.data<uint8_t>() + n * kSide * kSide;
    for (int64_t row = 0; row < kSide; ++row) {
      for (int64_t column = 0; column < kSide; ++column) {
        const double pixel = image[(kSide - 1 - column) * kSide + row];
        spoiled.bytes.push_back(static_cast<char>(Pixel(pixel + noise(engine))));
      }
    }
  }
  return spoiled;
}

}  // namespace laplace::demo
