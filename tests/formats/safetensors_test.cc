#include "formats/safetensors.h"

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

using ::laplaced::test_support::IsOk;
using ::laplaced::test_support::ReadFileBytes;
using ::laplaced::test_support::RunPython;
using ::laplaced::test_support::StatusIs;
using ::laplaced::test_support::TempFolder;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::StatusCode kDataLoss = absl::StatusCode::kDataLoss;

const float kFloats[] = {1.5f, -2.0f, 0.25f};
const int64_t kInts[] = {-1, int64_t{1} << 40};
const uint8_t kBytes[] = {0, 255, 7};

std::vector<NamedArrayView> Tensors() {
  return {{"bytes", {DType::kUint8, {3}, kBytes}},
          {"floats", {DType::kFloat32, {3, 1}, kFloats}},
          {"ints", {DType::kInt64, {2}, kInts}},
          {"none", {DType::kFloat64, {0, 4}, nullptr}},
          {"scalar", {DType::kFloat32, {}, kFloats}}};
}

std::string FileOf(const std::string& header, const std::string& data) {
  std::string length(8, '\0');
  const uint64_t n = header.size();
  std::memcpy(length.data(), &n, 8);
  return length + header + data;
}

absl::Status OpenStatus(const std::string& path) { return MappedSafetensors::Open(path).status(); }

absl::Status OpenBytes(const std::string& bytes) {
  TempFolder folder;
  return OpenStatus(folder.Write("x.safetensors", bytes));
}

// A header of one byte-sized tensor per line of fields; padded so that data is aligned.
std::string Padded(std::string header) {
  while (header.size() % 8 != 0) header.push_back(' ');
  return header;
}

TEST(SafetensorsTest, ReadsAFileMadeByHand) {
  TempFolder folder;
  const std::string header =
      Padded(R"({"__metadata__":{"k":"v"},"b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]},)"
             R"("a":{"dtype":"I32","shape":[1,1],"data_offsets":[0,4]}})");
  const std::string path =
      folder.Write("x", FileOf(header, std::string("\x01\x02\x00\x00\x05\x06", 6)));
  absl::StatusOr<MappedSafetensors> file = MappedSafetensors::Open(path);
  ASSERT_THAT(file, IsOk());
  EXPECT_THAT(file->Names(), ElementsAre("a", "b"));
  EXPECT_THAT(file->metadata(), ElementsAre(::testing::Pair("k", "v")));
  absl::StatusOr<ArrayView> a = file->Get("a");
  ASSERT_THAT(a, IsOk());
  EXPECT_EQ(a->dtype, DType::kInt32);
  EXPECT_THAT(a->shape, ElementsAre(1, 1));
  EXPECT_EQ(*static_cast<const int32_t*>(a->data), 0x201);
  EXPECT_EQ(static_cast<const uint8_t*>(file->Get("b")->data)[1], 6);
  EXPECT_EQ(file->bytes(), ReadFileBytes(path));
}

TEST(SafetensorsTest, RoundTrips) {
  TempFolder folder;
  const std::map<std::string, std::string> metadata = {{"who", "\"quoted\" \xc3\xa9"}, {"z", ""}};
  ASSERT_THAT(WriteSafetensors(folder.File("x"), Tensors(), metadata), IsOk());
  absl::StatusOr<MappedSafetensors> file = MappedSafetensors::Open(folder.File("x"));
  ASSERT_THAT(file, IsOk());
  EXPECT_EQ(file->metadata(), metadata);
  EXPECT_EQ(file->Names().size(), Tensors().size());
  for (const NamedArrayView& expected : Tensors()) {
    absl::StatusOr<ArrayView> read = file->Get(expected.name);
    ASSERT_THAT(read, IsOk());
    EXPECT_EQ(read->dtype, expected.array.dtype);
    EXPECT_EQ(read->shape, expected.array.shape);
    const size_t bytes = static_cast<size_t>(*NumBytes(read->dtype, read->shape));
    EXPECT_TRUE(bytes == 0 || std::memcmp(read->data, expected.array.data, bytes) == 0)
        << expected.name;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(read->data) % ElementSize(read->dtype), 0u);
  }
}

TEST(SafetensorsTest, AlignsTo64BytesWhereTheFormatAllowsIt) {
  TempFolder folder;
  const std::vector<float> values(64);
  std::vector<NamedArrayView> tensors = {{"odd", {DType::kUint8, {3}, values.data()}},
                                         {"m", {DType::kFloat32, {16}, values.data()}},
                                         {"n", {DType::kFloat32, {4, 8}, values.data()}},
                                         {"b", {DType::kUint8, {64}, values.data()}}};
  for (size_t name_length = 1; name_length < 70; ++name_length) {
    const std::string path = folder.File(absl::StrCat("x", name_length));
    tensors[1].name = std::string(name_length, 'm');
    ASSERT_THAT(WriteSafetensors(path, tensors, {}), IsOk());
    absl::StatusOr<MappedSafetensors> file = MappedSafetensors::Open(path);
    ASSERT_THAT(file, IsOk());
    for (const NamedArrayView& tensor : tensors) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(file->Get(tensor.name)->data) % 64, 0u) << tensor.name;
    }
  }
}

TEST(SafetensorsTest, WritesNoTensorsToo) {
  TempFolder folder;
  ASSERT_THAT(WriteSafetensors(folder.File("x"), {}, {}), IsOk());
  absl::StatusOr<MappedSafetensors> file = MappedSafetensors::Open(folder.File("x"));
  ASSERT_THAT(file, IsOk());
  EXPECT_TRUE(file->Names().empty());
}

TEST(SafetensorsTest, ReplacesNothing) {
  TempFolder folder;
  const std::string path = folder.Write("x", "precious");
  EXPECT_THAT(WriteSafetensors(path, Tensors(), {}), StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_EQ(ReadFileBytes(path), "precious");
}

TEST(SafetensorsTest, RefusesToWriteBadNamesAndShapes) {
  TempFolder folder;
  for (const char* name : {"", "__metadata__", "\xff", "bytes"}) {
    std::vector<NamedArrayView> tensors = Tensors();
    tensors.push_back({name, {DType::kUint8, {1}, kBytes}});
    EXPECT_THAT(WriteSafetensors(folder.File("x"), tensors, {}),
                StatusIs(absl::StatusCode::kInvalidArgument));
  }
  EXPECT_THAT(WriteSafetensors(folder.File("x"), {{"a", {DType::kUint8, {-1}, kBytes}}}, {}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_TRUE(test_support::NamesIn(folder.path()).empty());
}

TEST(SafetensorsTest, NamesTheTensorThatIsMissing) {
  TempFolder folder;
  ASSERT_THAT(WriteSafetensors(folder.File("x"), Tensors(), {}), IsOk());
  absl::StatusOr<MappedSafetensors> file = MappedSafetensors::Open(folder.File("x"));
  ASSERT_THAT(file, IsOk());
  EXPECT_THAT(file->Get("other"),
              StatusIs(absl::StatusCode::kNotFound,
                       AllOf(HasSubstr("'other'"), HasSubstr("bytes, floats, ints"))));
}

TEST(SafetensorsTest, StaysValidWhenMoved) {
  TempFolder folder;
  ASSERT_THAT(WriteSafetensors(folder.File("x"), Tensors(), {{"a", "b"}}), IsOk());
  absl::StatusOr<MappedSafetensors> first = MappedSafetensors::Open(folder.File("x"));
  absl::StatusOr<MappedSafetensors> second = MappedSafetensors::Open(folder.File("x"));
  ASSERT_THAT(first, IsOk());
  ASSERT_THAT(second, IsOk());
  MappedSafetensors moved = *std::move(first);
  *second = std::move(moved);
  EXPECT_EQ(static_cast<const int64_t*>(second->Get("ints")->data)[1], kInts[1]);
  EXPECT_EQ(second->metadata().at("a"), "b");
}

TEST(SafetensorsTest, RefusesMalformedHeaders) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "not valid JSON"},
      {"[]", "expected a JSON object"},
      {"{", "not valid JSON"},
      {"{}", "need 0 bytes of data, the file has 4"},
      {R"({"a":3})", "'a': expected an object"},
      {R"({"a":{"dtype":"F32","shape":[1]}})", "'a': expected an object with"},
      {R"({"a":{"dtype":"F32","shape":[1],"offsets":[0,4]}})", "two offsets"},
      {R"({"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}})", "dtype 'F16'"},
      {R"({"a":{"dtype":32,"shape":[1],"data_offsets":[0,4]}})", "a text for dtype"},
      {R"({"a":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})", "for shape"},
      {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", "for shape"},
      {R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", "for shape"},
      {R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]}})", "for shape"},
      {R"({"a":{"dtype":"F32","shape":[9223372036854775807],"data_offsets":[0,4]}})", "too large"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}})", "two offsets"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", "needs 4 bytes"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", "needs 8 bytes"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "need 8 bytes of data"},
      {R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[1,4]}})", "gap"},
      {R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
       R"("b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
       "overlap"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
       R"("b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
       "gap"},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
       R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
       "'a': appears twice"},
      {R"({"__metadata__":[],"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
       "__metadata__"},
      {R"({"__metadata__":{"k":1},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
       "__metadata__ 'k'"},
      {R"({"a":[[[[[[]]]]]]})", "nested too deeply"},
  };
  for (const auto& [header, message] : cases) {
    EXPECT_THAT(OpenBytes(FileOf(Padded(header), "data")),
                StatusIs(kDataLoss, AllOf(HasSubstr("x.safetensors"), HasSubstr(message))))
        << header;
  }
}

TEST(SafetensorsTest, RefusesATensorThatIsNotAligned) {
  const std::string header = Padded(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                    R"("b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})");
  EXPECT_THAT(OpenBytes(FileOf(header, "12345")), StatusIs(kDataLoss, HasSubstr("not aligned")));
}

TEST(SafetensorsTest, RefusesDeepNestingWithoutOverflowingTheStack) {
  EXPECT_THAT(OpenBytes(FileOf(std::string(1 << 20, '['), "")), StatusIs(kDataLoss));
  EXPECT_THAT(OpenBytes(FileOf(R"({"a":)" + std::string(1 << 20, '['), "")), StatusIs(kDataLoss));
}

TEST(SafetensorsTest, RefusesWrongLengths) {
  EXPECT_THAT(OpenBytes(""), StatusIs(kDataLoss, HasSubstr("no header")));
  EXPECT_THAT(OpenBytes(std::string(8, '\xff')), StatusIs(kDataLoss));
  EXPECT_THAT(OpenBytes(FileOf("{}", "")), IsOk());
  std::string past_the_end = FileOf("{}", "");
  past_the_end[0] = 3;
  EXPECT_THAT(OpenBytes(past_the_end), StatusIs(kDataLoss, HasSubstr("expected at most 2")));
  EXPECT_THAT(OpenBytes(FileOf(std::string((16 << 20) + 1, ' '), "")),
              StatusIs(kDataLoss, HasSubstr("expected at most 16777216")));
}

TEST(SafetensorsTest, TellsAMissingFileFromADamagedOne) {
  TempFolder folder;
  EXPECT_THAT(OpenStatus(folder.File("none")), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(OpenStatus(folder.path()), StatusIs(kDataLoss));
}

TEST(SafetensorsTest, RefusesEveryTruncationAndExtension) {
  TempFolder folder;
  ASSERT_THAT(WriteSafetensors(folder.File("x"), Tensors(), {{"k", "v"}}), IsOk());
  const std::string bytes = ReadFileBytes(folder.File("x"));
  test_support::ExpectEveryTruncationRefused(bytes, "x", kDataLoss, OpenStatus);
  EXPECT_THAT(OpenBytes(bytes + '\0'), StatusIs(kDataLoss, HasSubstr("bytes of data")));
}

TEST(SafetensorsTest, SurvivesEveryBitFlip) {
  TempFolder folder;
  ASSERT_THAT(WriteSafetensors(folder.File("x"), Tensors(), {{"k", "v"}}), IsOk());
  test_support::ExpectEveryBitFlipSurvived(
      ReadFileBytes(folder.File("x")), "x", kDataLoss, [](const std::string& path) {
        absl::StatusOr<MappedSafetensors> file = MappedSafetensors::Open(path);
        if (!file.ok()) return file.status();
        // What is handed out lies inside the file, or a sanitizer stops the test here.
        int sum = 0;
        for (const std::string& name : file->Names()) {
          const ArrayView view = *file->Get(name);
          const int64_t bytes = *NumBytes(view.dtype, view.shape);
          const char* data = static_cast<const char*>(view.data);
          EXPECT_LE(data + bytes, file->bytes().data() + file->bytes().size());
          for (int64_t i = 0; i < bytes; ++i) sum += data[i];
        }
        EXPECT_LT(sum, 1 << 20);
        return absl::OkStatus();
      });
}

TEST(SafetensorsTest, IsReadByIndependentPython) {
  const std::string python = test_support::FindPython("json, struct");
  if (python.empty()) GTEST_SKIP() << "no python3";
  TempFolder folder;
  ASSERT_THAT(WriteSafetensors(folder.File("x"), Tensors(), {{"k", "v"}}), IsOk());
  const char kProgram[] = R"(
import sys, json, struct
raw = open(sys.argv[1], 'rb').read()
n, = struct.unpack('<Q', raw[:8])
head = json.loads(raw[8:8 + n]); data = raw[8 + n:]
assert (8 + n) % 64 == 0
assert head.pop('__metadata__') == {'k': 'v'}
def get(name, code):
    t = head[name]; begin, end = t['data_offsets']
    return t['dtype'], t['shape'], struct.unpack('<%d%s' % ((end - begin) // struct.calcsize(code), code), data[begin:end])
assert get('bytes', 'B') == ('U8', [3], (0, 255, 7))
assert get('floats', 'f') == ('F32', [3, 1], (1.5, -2.0, 0.25))
assert get('ints', 'q') == ('I64', [2], (-1, 1 << 40))
assert get('none', 'd') == ('F64', [0, 4], ())
assert get('scalar', 'f') == ('F32', [], (1.5,))
)";
  const test_support::PythonResult result = RunPython(python, kProgram, {folder.File("x")});
  EXPECT_EQ(result.exit_status, 0) << result.output;
}

TEST(SafetensorsTest, AgreesWithThePythonPackage) {
  const std::string python = test_support::FindPython("numpy, safetensors.numpy");
  if (python.empty()) GTEST_SKIP() << "no python3 with numpy and safetensors";
  TempFolder folder;
  ASSERT_THAT(WriteSafetensors(folder.File("ours"), Tensors(), {{"k", "v"}}), IsOk());
  const char kProgram[] = R"(
import sys
from safetensors.numpy import load_file, save_file
tensors = load_file(sys.argv[1])
assert tensors['ints'].tolist() == [-1, 1 << 40]
assert tensors['floats'].tolist() == [[1.5], [-2.0], [0.25]]
save_file(tensors, sys.argv[2], metadata={'from': 'python'})
)";
  const test_support::PythonResult result =
      RunPython(python, kProgram, {folder.File("ours"), folder.File("theirs")});
  ASSERT_EQ(result.exit_status, 0) << result.output;
  absl::StatusOr<MappedSafetensors> file = MappedSafetensors::Open(folder.File("theirs"));
  ASSERT_THAT(file, IsOk());
  EXPECT_EQ(file->metadata().at("from"), "python");
  EXPECT_EQ(static_cast<const int64_t*>(file->Get("ints")->data)[0], -1);
}

}  // namespace
}  // namespace laplaced
