#include "formats/weights_file.h"

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/hostile_bytes.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using ::laplaced::test_support::IsOk;
using ::laplaced::test_support::ReadFileBytes;
using ::laplaced::test_support::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr char kFolder[] = LAPLACED_SOURCE_DIR "/tests/data/weights/";

absl::StatusOr<Weights> Read(const std::string& name) { return ReadWeights(kFolder + name, name); }

template <typename T>
std::vector<T> Elements(const Array& array) {
  std::vector<T> elements(array.bytes.size() / sizeof(T));
  std::memcpy(elements.data(), array.bytes.data(), array.bytes.size());
  return elements;
}

std::vector<std::string> NamesOf(const Weights& weights) {
  std::vector<std::string> names;
  for (const auto& entry : weights) names.push_back(entry.first);
  return names;
}

// What weights_reference.py calls state().
void ExpectState(const Weights& weights) {
  EXPECT_THAT(NamesOf(weights),
              ElementsAre("bn.num_batches_tracked", "bn.running_mean", "conv.weight", "fc.weight"));
  const Array& conv = weights.at("conv.weight");
  EXPECT_EQ(conv.dtype, DType::kFloat32);
  EXPECT_THAT(conv.shape, ElementsAre(2, 3, 2, 1));
  EXPECT_THAT(Elements<float>(conv),
              ElementsAre(-1, -.75, -.5, -.25, 0, .25, .5, .75, 1, 1.25, 1.5, 1.75));
  EXPECT_THAT(Elements<float>(weights.at("bn.running_mean")), ElementsAre(.5, -2));
  EXPECT_THAT(Elements<float>(weights.at("fc.weight")), ElementsAre(1.5, -.25, 3, 65504));
  const Array& counter = weights.at("bn.num_batches_tracked");
  EXPECT_TRUE(counter.shape.empty());
  EXPECT_THAT(Elements<int64_t>(counter), ElementsAre(7));
}

TEST(WeightsFileTest, ReadsEveryContainerThatPytorchWrites) {
  for (const char* name : {"zip.pth", "deflated.pth", "legacy.pth", "protocol4.pth"}) {
    SCOPED_TRACE(name);
    const auto weights = Read(name);
    ASSERT_THAT(weights, IsOk());
    ExpectState(*weights);
  }
}

TEST(WeightsFileTest, TakesTheWeightsOfACheckpointWithoutTheirPrefix) {
  for (const char* name : {"checkpoint.pth", "checkpoint_legacy.pth"}) {
    SCOPED_TRACE(name);
    const auto weights = Read(name);
    ASSERT_THAT(weights, IsOk());
    ExpectState(*weights);
  }
}

TEST(WeightsFileTest, WidensEveryElementType) {
  const auto weights = Read("types.pth");
  ASSERT_THAT(weights, IsOk());
  EXPECT_THAT(Elements<double>(weights->at("float64")), ElementsAre(-2, 0, 1, 100));
  for (const char* name : {"float32", "float16", "bfloat16"}) {
    EXPECT_EQ(weights->at(name).dtype, DType::kFloat32) << name;
    EXPECT_THAT(Elements<float>(weights->at(name)), ElementsAre(-2, 0, 1, 100)) << name;
  }
  EXPECT_THAT(Elements<int64_t>(weights->at("int64")), ElementsAre(-2, 0, 1, 100));
  for (const char* name : {"int32", "int16", "int8"}) {
    EXPECT_EQ(weights->at(name).dtype, DType::kInt32) << name;
    EXPECT_THAT(Elements<int32_t>(weights->at(name)), ElementsAre(-2, 0, 1, 100)) << name;
  }
  EXPECT_THAT(Elements<uint8_t>(weights->at("uint8")), ElementsAre(254, 0, 1, 100));
  EXPECT_THAT(Elements<uint8_t>(weights->at("bool")), ElementsAre(1, 0, 1, 1));
}

TEST(WeightsFileTest, FollowsStridesOffsetsAndSharedStorages) {
  for (const char* name : {"views.pth", "views_legacy.pth"}) {
    SCOPED_TRACE(name);
    const auto weights = Read(name);
    ASSERT_THAT(weights, IsOk());
    std::vector<float> base(24), transposed, permuted;
    for (int i = 0; i < 24; ++i) base[i] = static_cast<float>(i);
    for (int j = 0; j < 6; ++j) {
      for (int i = 0; i < 4; ++i) transposed.push_back(base[i * 6 + j]);
    }
    for (int k = 0; k < 2; ++k) {  // [2, 4, 3] of [4, 3, 2]
      for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < 3; ++j) permuted.push_back(base[i * 6 + j * 2 + k]);
      }
    }
    EXPECT_EQ(Elements<float>(weights->at("base")), base);
    EXPECT_EQ(Elements<float>(weights->at("tied")), base);
    EXPECT_EQ(Elements<float>(weights->at("transposed")), transposed);
    EXPECT_THAT(weights->at("permuted").shape, ElementsAre(2, 4, 3));
    EXPECT_EQ(Elements<float>(weights->at("permuted")), permuted);
    EXPECT_THAT(Elements<float>(weights->at("strided")),
                ElementsAre(6, 8, 10, 12, 14, 16, 18, 20, 22));
    EXPECT_THAT(Elements<float>(weights->at("row")), ElementsAre(12, 13, 14, 15, 16, 17));
    EXPECT_THAT(weights->at("empty").shape, ElementsAre(0, 3));
    EXPECT_THAT(Elements<float>(weights->at("scalar")), ElementsAre(2.5));
  }
}

std::string Safetensors(const std::string& header, const std::string& data) {
  std::string length(8, '\0');
  const uint64_t n = header.size();
  std::memcpy(length.data(), &n, sizeof n);
  return length + header + data;
}

TEST(WeightsFileTest, ReadsSafetensorsOfEveryPrecisionWhereverTheyBegin) {
  const std::string half("\x00\x3c\x00\xc0\x01\x00", 6);  // 1, -2, 2^-24
  const std::string bfloat("\xc0\x3f", 2);                // 1.5
  const auto weights =
      ParseWeights(Safetensors(R"({"module.t":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]},)"
                               R"("module.h":{"dtype":"F16","shape":[3],"data_offsets":[1,7]},)"
                               R"("module.b":{"dtype":"BF16","shape":[],"data_offsets":[7,9]}})",
                               "\x02" + half + bfloat),
                   "x");
  ASSERT_THAT(weights, IsOk());
  EXPECT_THAT(NamesOf(*weights), ElementsAre("b", "h", "t"));
  EXPECT_THAT(Elements<float>(weights->at("h")), ElementsAre(1, -2, 0x1p-24f));
  EXPECT_THAT(Elements<float>(weights->at("b")), ElementsAre(1.5));
  EXPECT_THAT(Elements<uint8_t>(weights->at("t")), ElementsAre(1));
}

TEST(WeightsFileTest, AllHalfPrecisionNumbersKeepTheirValue) {
  // From the definition: (-1)^s 2^(e-15) 1.f, or 2^-14 0.f where e is 0.
  std::string data(2 << 16, '\0');
  for (int i = 0; i < 1 << 16; ++i) {
    data[2 * i] = static_cast<char>(i);
    data[2 * i + 1] = static_cast<char>(i >> 8);
  }
  const auto weights = ParseWeights(
      Safetensors(R"({"h":{"dtype":"F16","shape":[65536],"data_offsets":[0,131072]}})", data), "x");
  ASSERT_THAT(weights, IsOk());
  const std::vector<float> read = Elements<float>(weights->at("h"));
  for (int i = 0; i < 1 << 16; ++i) {
    const int exponent = i >> 10 & 31, fraction = i & 1023;
    const double sign = i >> 15 != 0 ? -1 : 1;
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(read[i]), fraction != 0) << i;
      EXPECT_EQ(std::isinf(read[i]), fraction == 0) << i;
      continue;
    }
    const double value =
        exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
    ASSERT_EQ(read[i], static_cast<float>(sign * value)) << i;
  }
}

TEST(WeightsFileTest, APrefixThatSomeNamesLackStays) {
  const auto weights =
      ParseWeights(Safetensors(R"({"module.a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                               R"("b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                               "xy"),
                   "x");
  ASSERT_THAT(weights, IsOk());
  EXPECT_THAT(NamesOf(*weights), ElementsAre("b", "module.a"));
}

TEST(WeightsFileTest, WhatIsNotPlainWeightsIsRefusedByName) {
  const struct {
    const char* file;
    const char* text;
  } cases[] = {
      {"module.pth", "the object 'torch.nn.modules.linear.Linear' is not allowed"},
      {"module.pth", "torch.save(model.state_dict(), FILE)"},
      {"expanded.pth", "tensor 'w': shape [1000] has more elements than the storage (1)"},
      {"two_models.pth", "both 'state_dict' and 'model' are dictionaries"},
      {"script.pt", "Linear' is not allowed"},
  };
  for (const auto& c : cases) {
    EXPECT_THAT(Read(c.file), StatusIs(kInvalid, AllOf(HasSubstr(c.file), HasSubstr(c.text))));
  }
  EXPECT_THAT(ParseWeights("hello", "x"), StatusIs(kInvalid, HasSubstr("not a file of weights")));
  EXPECT_THAT(ParseWeights("", "x"), StatusIs(kInvalid, HasSubstr("not a file of weights")));
  EXPECT_THAT(ReadWeights("/nowhere", "x"), StatusIs(absl::StatusCode::kNotFound));
}

TEST(WeightsFileTest, KnowsTorchScriptFromWeights) {
  EXPECT_TRUE(IsTorchScript(ReadFileBytes(std::string(kFolder) + "script.pt")));
  EXPECT_FALSE(IsTorchScript(ReadFileBytes(std::string(kFolder) + "zip.pth")));
  EXPECT_FALSE(IsTorchScript(ReadFileBytes(std::string(kFolder) + "legacy.pth")));
  EXPECT_FALSE(IsTorchScript("PK\x03\x04"));
}

TEST(WeightsFileTest, DamageIsRefusedOrHarmless) {
  const test_support::FileReader read = [](const std::string& path) {
    return ReadWeights(path, "x").status();
  };
  const std::string legacy = ReadFileBytes(std::string(kFolder) + "legacy.pth");
  test_support::ExpectEveryTruncationRefused(legacy, "x", kInvalid, read);
  test_support::ExpectEveryBitFlipSurvived(legacy, "x", kInvalid, read);
  const std::string zip = ReadFileBytes(std::string(kFolder) + "deflated.pth");
  test_support::ExpectEveryTruncationRefused(zip, "x", kInvalid, read);
  test_support::ExpectEveryBitFlipSurvived(zip, "x", kInvalid, read);
}

TEST(WeightsFileTest, AFileBeyondTheLimitIsRefused) {
  EXPECT_THAT(ReadWeights(std::string(kFolder) + "zip.pth", "x", 1000),
              StatusIs(kInvalid, HasSubstr("at most 1000")));
  EXPECT_THAT(ParseWeights(ReadFileBytes(std::string(kFolder) + "zip.pth"), "x", 100),
              StatusIs(kInvalid, HasSubstr("limit of 100 bytes")));
}

}  // namespace
}  // namespace laplaced
