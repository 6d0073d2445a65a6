#include "formats/npy.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/hostile_bytes.h"
#include "tests/support/python.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using ::laplaced::test_support::FindPython;
using ::laplaced::test_support::IsOk;
using ::laplaced::test_support::ReadFileBytes;
using ::laplaced::test_support::RunPython;
using ::laplaced::test_support::StatusIs;
using ::laplaced::test_support::TempFolder;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

std::string V1(const std::string& dictionary, const std::string& data) {
  const size_t n = dictionary.size();
  return absl::StrCat("\x93NUMPY\x01", std::string(1, '\0'), std::string(1, n & 0xff),
                      std::string(1, n >> 8), dictionary, data);
}

std::string V2(char version, const std::string& dictionary, const std::string& data) {
  const size_t n = dictionary.size();
  return absl::StrCat("\x93NUMPY", std::string(1, version), std::string(1, '\0'),
                      std::string(1, n & 0xff), std::string(1, n >> 8), std::string(2, '\0'),
                      dictionary, data);
}

const char kSmallDictionary[] = "{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }\n";
const std::string kSmallData("\x01\x00\x00\x00\xfe\xff\xff\xff", 8);

absl::StatusOr<Array> ReadBytes(const std::string& bytes) {
  TempFolder folder;
  return ReadNpy(folder.Write("x.npy", bytes));
}

absl::Status ReadStatus(const std::string& path) { return ReadNpy(path).status(); }

std::vector<int32_t> Ints(const Array& array) {
  return std::vector<int32_t>(array.data<int32_t>(),
                              array.data<int32_t>() + *NumElements(array.shape));
}

TEST(NpyTest, ReadsEveryVersion) {
  for (const std::string& bytes :
       {V1(kSmallDictionary, kSmallData), V2(2, kSmallDictionary, kSmallData),
        V2(3, kSmallDictionary, kSmallData)}) {
    absl::StatusOr<Array> array = ReadBytes(bytes);
    ASSERT_THAT(array, IsOk());
    EXPECT_EQ(array->dtype, DType::kInt32);
    EXPECT_THAT(array->shape, ElementsAre(2));
    EXPECT_THAT(Ints(*array), ElementsAre(1, -2));
  }
}

TEST(NpyTest, ReadsOtherWaysToWriteAHeader) {
  for (const char* dictionary : {"{\"shape\": (2L,), \"fortran_order\": False, \"descr\": \"<i4\"}",
                                 "{ 'shape':(2),'descr':'<i4','fortran_order':False}   \n",
                                 "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 1,), }",
                                 "{'descr': '<i4', 'fortran_order': False, 'shape': (1, 2), }"}) {
    absl::StatusOr<Array> array = ReadBytes(V1(dictionary, kSmallData));
    ASSERT_THAT(array, IsOk()) << dictionary;
    EXPECT_THAT(Ints(*array), ElementsAre(1, -2));
  }
}

TEST(NpyTest, ReadsEveryType) {
  const std::pair<const char*, DType> types[] = {
      {"<f4", DType::kFloat32}, {"<f8", DType::kFloat64}, {"<i4", DType::kInt32},
      {"<i8", DType::kInt64},   {"|u1", DType::kUint8},   {"|b1", DType::kUint8},
  };
  for (const auto& [descr, dtype] : types) {
    const std::string data(static_cast<size_t>(3 * ElementSize(dtype)), '\x2a');
    absl::StatusOr<Array> array = ReadBytes(V1(
        absl::StrCat("{'descr': '", descr, "', 'fortran_order': False, 'shape': (3,), }"), data));
    ASSERT_THAT(array, IsOk()) << descr;
    EXPECT_EQ(array->dtype, dtype) << descr;
    EXPECT_EQ(array->boolean, descr == std::string("|b1")) << descr;
    EXPECT_EQ(array->bytes, data) << descr;
  }
}

TEST(NpyTest, ReadsScalarsAndEmptyArrays) {
  absl::StatusOr<Array> scalar =
      ReadBytes(V1("{'descr': '<i4', 'fortran_order': False, 'shape': (), }", "\x05\x01\x01\x01"));
  ASSERT_THAT(scalar, IsOk());
  EXPECT_THAT(scalar->shape, ElementsAre());
  EXPECT_THAT(Ints(*scalar), ElementsAre(0x01010105));
  absl::StatusOr<Array> empty =
      ReadBytes(V1("{'descr': '<i4', 'fortran_order': False, 'shape': (3, 0), }", ""));
  ASSERT_THAT(empty, IsOk());
  EXPECT_THAT(empty->shape, ElementsAre(3, 0));
}

TEST(NpyTest, RefusesByNameWhatItDoesNotSupport) {
  const std::pair<const char*, const char*> cases[] = {
      {"{'descr': '>f4', 'fortran_order': False, 'shape': (2,)}", "big-endian type '>f4'"},
      {"{'descr': '|O', 'fortran_order': False, 'shape': (2,)}", "Python objects"},
      {"{'descr': '<f2', 'fortran_order': False, 'shape': (2,)}", "type '<f2' is not supported"},
      {"{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}", "type '<c8'"},
      {"{'descr': '<U4', 'fortran_order': False, 'shape': (1,)}", "type '<U4'"},
      {"{'descr': '', 'fortran_order': False, 'shape': (1,)}", "type ''"},
      {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}", "structured"},
      {"{'descr': '<f4', 'fortran_order': True, 'shape': (2,)}", "fortran_order"},
  };
  for (const auto& [dictionary, message] : cases) {
    EXPECT_THAT(ReadBytes(V1(dictionary, kSmallData)),
                StatusIs(kInvalid, AllOf(HasSubstr("x.npy"), HasSubstr(message))));
  }
}

TEST(NpyTest, RefusesMalformedHeaders) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "expected '{'"},
      {"{", "a quoted key"},
      {"{'descr' '<f4'}", "expected ':'"},
      {"{'descr: '<f4'", "expected ':'"},
      {"{'descr", "closing quote"},
      {"{'descr': '<f4', 'fortran_order': False}", "'shape' is missing"},
      {"{'descr': '<f4', 'shape': (2,)}", "'fortran_order' is missing"},
      {"{'fortran_order': False, 'shape': (2,)}", "'descr' is missing"},
      {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", "twice"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'more': 1}", "unknown key 'more'"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} x", "expected the end"},
      {"{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}", "True or False"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': 2}", "a tuple"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}", "non-negative"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2 2)}", "',' or ')'"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (,)}", "non-negative"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808,)}", "2^63"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807,)}", "too large"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2147483648, 2147483648)}", "too large"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", "needs 12 bytes"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", "needs 4 bytes"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}",
       "needs 4398046511104"},
  };
  for (const auto& [dictionary, message] : cases) {
    EXPECT_THAT(ReadBytes(V1(dictionary, kSmallData)), StatusIs(kInvalid, HasSubstr(message)));
  }
}

TEST(NpyTest, RefusesOtherFilesAndVersions) {
  EXPECT_THAT(ReadBytes(""), StatusIs(kInvalid, HasSubstr("not a .npy file")));
  EXPECT_THAT(ReadBytes("PK\x03\x04 something else"), StatusIs(kInvalid, HasSubstr("x93NUMPY")));
  EXPECT_THAT(ReadBytes(V2(4, kSmallDictionary, kSmallData)),
              StatusIs(kInvalid, HasSubstr("version 4.0")));
  std::string huge_header = V2(2, kSmallDictionary, kSmallData);
  huge_header[11] = '\x7f';
  EXPECT_THAT(ReadBytes(huge_header), StatusIs(kInvalid, HasSubstr("expected at most 65536")));
  EXPECT_THAT(ReadNpy("/nonexistent/x.npy"), StatusIs(absl::StatusCode::kNotFound));
}

TEST(NpyTest, RefusesEveryTruncation) {
  for (const std::string& bytes :
       {V1(kSmallDictionary, kSmallData), V2(2, kSmallDictionary, kSmallData)}) {
    test_support::ExpectEveryTruncationRefused(bytes, "x.npy", kInvalid, ReadStatus);
  }
}

TEST(NpyTest, SurvivesEveryBitFlip) {
  test_support::ExpectEveryBitFlipSurvived(V2(2, kSmallDictionary, kSmallData), "x.npy", kInvalid,
                                           ReadStatus);
}

TEST(NpyTest, KeepsTheLimit) {
  TempFolder folder;
  const std::string path = folder.Write("x.npy", V1(kSmallDictionary, kSmallData));
  EXPECT_THAT(ReadNpy(path, 8), IsOk());
  EXPECT_THAT(ReadNpy(path, 7), StatusIs(kInvalid, HasSubstr("limit of 7")));
}

TEST(NpyTest, WritesTheBytesThatNumpyWrites) {
  Array array;
  array.dtype = DType::kFloat32;
  array.shape = {1, 2};
  array.bytes = kSmallData;
  // numpy.save of the same array, copied byte for byte.
  const std::string expected =
      absl::StrCat(std::string("\x93NUMPY\x01\x00\x76\x00", 10),
                   "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }",
                   std::string(58, ' '), "\n", kSmallData);
  absl::StatusOr<std::string> bytes = SerializeNpy(array);
  ASSERT_THAT(bytes, IsOk());
  EXPECT_EQ(*bytes, expected);
}

TEST(NpyTest, RoundTripsAndAligns) {
  TempFolder folder;
  for (DType dtype :
       {DType::kFloat32, DType::kFloat64, DType::kUint8, DType::kInt32, DType::kInt64}) {
    for (const std::vector<int64_t>& shape :
         std::vector<std::vector<int64_t>>{{}, {0}, {5}, {2, 3, 4}, std::vector<int64_t>(32, 1)}) {
      Array array = *AllocateArray(dtype, shape);
      for (size_t i = 0; i < array.bytes.size(); ++i)
        array.bytes[i] = static_cast<char>(37 * i + 1);
      const std::string path = folder.File("x.npy");
      ASSERT_THAT(WriteNpy(path, array), IsOk());
      absl::StatusOr<NpyHeader> header = ReadNpyHeader(path);
      ASSERT_THAT(header, IsOk());
      EXPECT_EQ(header->data_offset % 64, 0);
      EXPECT_EQ(header->shape, shape);
      absl::StatusOr<Array> read = ReadNpy(path);
      ASSERT_THAT(read, IsOk());
      EXPECT_EQ(read->dtype, dtype);
      EXPECT_EQ(read->shape, shape);
      EXPECT_EQ(read->bytes, array.bytes);
    }
  }
}

TEST(NpyTest, RefusesToWriteWhatCannotBeRead) {
  Array array;
  array.shape = {2};
  array.bytes = "short";
  EXPECT_THAT(SerializeNpy(array), StatusIs(kInvalid, HasSubstr("needs 8 bytes, got 5")));
  TempFolder folder;
  EXPECT_THAT(WriteNpy(folder.File("x.npy"), array), StatusIs(kInvalid));
  EXPECT_TRUE(test_support::NamesIn(folder.path()).empty());
  EXPECT_THAT(SerializeNpyHeader(DType::kUint8, std::vector<int64_t>(33, 1)), StatusIs(kInvalid));
  EXPECT_THAT(SerializeNpyHeader(DType::kUint8, {-1}), StatusIs(kInvalid));
}

TEST(NpyTest, AgreesWithNumpy) {
  const std::string python = FindPython("numpy");
  if (python.empty()) GTEST_SKIP() << "no python3 with numpy";
  TempFolder folder;
  const char kWrite[] = R"(
import sys, numpy as np
folder = sys.argv[1]
for dtype in ['<f4', '<f8', '|u1', '<i4', '<i8', '|b1']:
    for shape in [(), (4,), (2, 3), (2, 0)]:
        n = int(np.prod(shape))
        array = (np.arange(n).reshape(shape) * 3 + 1).astype(dtype)
        np.save(f'{folder}/{np.dtype(dtype).name}-{len(shape)}-{n}.npy', array)
with open(f'{folder}/v2.npy', 'wb') as f:
    np.lib.format.write_array(f, np.arange(4, dtype='<f4'), version=(2, 0))
np.save(f'{folder}/fortran.bad', np.asfortranarray(np.ones((2, 3), '<f4')))
np.save(f'{folder}/objects.bad', np.array([{}, None]), allow_pickle=True)
)";
  const test_support::PythonResult written = RunPython(python, kWrite, {folder.path()});
  ASSERT_EQ(written.exit_status, 0) << written.output;
  int count = 0;
  for (const std::string& name : test_support::NamesIn(folder.path())) {
    const std::string path = folder.File(name);
    absl::StatusOr<Array> array = ReadNpy(path);
    if (name.find(".bad") != std::string::npos) {
      EXPECT_THAT(array, StatusIs(kInvalid)) << name;
      continue;
    }
    ASSERT_THAT(array, IsOk()) << name;
    const bool same_bytes = *SerializeNpy(*array) == ReadFileBytes(path);
    EXPECT_EQ(same_bytes, name != "v2.npy" && name.find("bool") != 0) << name;
    ++count;
  }
  EXPECT_EQ(count, 25);
}

}  // namespace
}  // namespace laplaced
