#include "client/demo/odd_images.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace laplace::demo {
namespace {

using ::testing::DoubleNear;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Line(int value, int label) {
  std::string line;
  for (int i = 0; i < 64; ++i) absl::StrAppend(&line, value, ",");
  return absl::StrCat(line, label, "\n");
}

std::string WriteGzip(const std::string& name, const std::string& text) {
  const std::string path = ::testing::TempDir() + "/" + name;
  const gzFile file = gzopen(path.c_str(), "wb");
  gzwrite(file, text.data(), text.size());
  gzclose(file);
  return path;
}

TEST(EnlargeTest, KeepsAConstantConstant) {
  EXPECT_THAT(Enlarge(std::vector<double>(64, 7), 8, 28), Each(DoubleNear(7, 1e-12)));
}

TEST(EnlargeTest, InterpolatesBetweenPixelCentres) {
  // Centres of the four new pixels of a row lie at -.25, .25, .75 and 1.25 of the old ones.
  const std::vector<double> enlarged = Enlarge({0, 4, 0, 4}, 2, 4);
  for (int row = 0; row < 4; ++row) {
    const std::vector<double> values(enlarged.begin() + 4 * row, enlarged.begin() + 4 * row + 4);
    EXPECT_THAT(values, ElementsAre(0, 1, 3, 4)) << row;
  }
}

TEST(UciDigitsTest, AreScaledToFullInk) {
  const std::string path = WriteGzip("digits.csv.gz", Line(16, 3) + Line(8, 9));
  const auto digits = ReadUciDigits(path);
  std::remove(path.c_str());
  ASSERT_TRUE(digits.ok()) << digits.status();
  EXPECT_THAT(digits->labels, ElementsAre(3, 9));
  EXPECT_THAT(digits->images.shape, ElementsAre(2, 28, 28));
  EXPECT_EQ(digits->images.data<uint8_t>()[0], 255);
  EXPECT_EQ(digits->images.data<uint8_t>()[28 * 28], 128);
}

TEST(UciDigitsTest, NameTheLineThatIsMalformed) {
  const std::string path = WriteGzip("bad.csv.gz", Line(1, 3) + "1,2,3\n");
  EXPECT_THAT(std::string(ReadUciDigits(path).status().message()), HasSubstr("line 2"));
  std::remove(path.c_str());
  EXPECT_EQ(ReadUciDigits("/nowhere").status().code(), absl::StatusCode::kNotFound);
}

TEST(TurnedAndNoisyTest, TurnsByAQuarter) {
  ::laplaced::Array images;
  images.dtype = ::laplaced::DType::kUint8;
  images.shape = {2, 28, 28};
  images.bytes.assign(2 * 28 * 28, '\0');
  images.bytes[27 * 28] = '\x64';  // bottom left comes to the top left
  const ::laplaced::Array turned = TurnedAndNoisy(images, 1, 0, 0);
  EXPECT_THAT(turned.shape, ElementsAre(1, 28, 28));
  EXPECT_EQ(turned.bytes[0], '\x64');
  EXPECT_EQ(TurnedAndNoisy(images, 2, 9, 1).bytes, TurnedAndNoisy(images, 2, 9, 1).bytes);
}

}  // namespace
}  // namespace laplace::demo
