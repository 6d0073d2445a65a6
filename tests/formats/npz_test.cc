#include "formats/npz.h"

#include <zlib.h>

#include "absl/strings/str_cat.h"
#include "formats/npy.h"
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
using ::testing::HasSubstr;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

Array Sequence(DType dtype, const std::vector<int64_t>& shape) {
  Array array = *AllocateArray(dtype, shape);
  for (size_t i = 0; i < array.bytes.size(); ++i) array.bytes[i] = static_cast<char>(7 * i + 3);
  return array;
}

std::string Little(uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text.push_back(static_cast<char>(value >> 8 * i & 0xff));
  return text;
}

// A member of a ZIP archive built by hand, so that every field can lie.
struct RawMember {
  std::string name;
  std::string packed;
  uint32_t crc;
  uint64_t size;
  int method = 0;
  int flags = 0;
  uint64_t packed_size;
};

RawMember Stored(const std::string& name, const std::string& bytes) {
  RawMember member;
  member.name = name;
  member.packed = bytes;
  member.crc = static_cast<uint32_t>(
      crc32(0, reinterpret_cast<const Bytef*>(bytes.data()), static_cast<uInt>(bytes.size())));
  member.size = bytes.size();
  member.packed_size = bytes.size();
  return member;
}

std::string CommonFields(const RawMember& member) {
  return absl::StrCat(Little(20, 2), Little(member.flags, 2), Little(member.method, 2),
                      Little(0x5A210000, 4), Little(member.crc, 4), Little(member.packed_size, 4),
                      Little(member.size, 4), Little(member.name.size(), 2), Little(0, 2));
}

std::string Archive(const std::vector<RawMember>& members) {
  std::string files;
  std::string directory;
  for (const RawMember& member : members) {
    absl::StrAppend(&directory, "PK\x01\x02", Little(20, 2), CommonFields(member), Little(0, 2),
                    Little(0, 2), Little(0, 2), Little(0, 4), Little(files.size(), 4), member.name);
    absl::StrAppend(&files, "PK\x03\x04", CommonFields(member), member.name, member.packed);
  }
  return absl::StrCat(files, directory, "PK\x05\x06", Little(0, 4), Little(members.size(), 2),
                      Little(members.size(), 2), Little(directory.size(), 4),
                      Little(files.size(), 4), Little(0, 2));
}

const std::string& SmallNpy() {
  static const std::string* bytes = new std::string(*SerializeNpy(Sequence(DType::kInt32, {2})));
  return *bytes;
}

absl::StatusOr<std::map<std::string, Array>> ReadBytes(const std::string& bytes) {
  TempFolder folder;
  return ReadNpz(folder.Write("x.npz", bytes));
}

absl::Status ReadStatus(const std::string& path) { return ReadNpz(path).status(); }

TEST(NpzTest, ReadsAnArchiveMadeByHand) {
  const auto arrays =
      ReadBytes(Archive({Stored("a.npy", SmallNpy()), Stored("b/c.npy", SmallNpy())}));
  ASSERT_THAT(arrays, IsOk());
  ASSERT_EQ(arrays->size(), 2u);
  EXPECT_EQ(arrays->at("a").bytes, Sequence(DType::kInt32, {2}).bytes);
  EXPECT_EQ(arrays->at("b/c").dtype, DType::kInt32);
}

TEST(NpzTest, RoundTripsStoredAndDeflated) {
  TempFolder folder;
  const std::map<std::string, Array> arrays = {
      {"inputs", Sequence(DType::kFloat32, {3, 1, 2})},
      {"labels", Sequence(DType::kInt64, {3})},
      {"weights", Sequence(DType::kFloat64, {2, 0})},
      {"zeros", *AllocateArray(DType::kUint8, {100000})},
  };
  for (NpzCompression compression : {NpzCompression::kStored, NpzCompression::kDeflated}) {
    const std::string path = folder.File("x.npz");
    ASSERT_THAT(WriteNpz(path, arrays, compression), IsOk());
    const bool small = std::filesystem::file_size(path) < 10000;
    EXPECT_EQ(small, compression == NpzCompression::kDeflated);
    const auto read = ReadNpz(path);
    ASSERT_THAT(read, IsOk());
    ASSERT_EQ(read->size(), arrays.size());
    for (const auto& [name, array] : arrays) {
      EXPECT_EQ(read->at(name).dtype, array.dtype) << name;
      EXPECT_EQ(read->at(name).shape, array.shape) << name;
      EXPECT_EQ(read->at(name).bytes, array.bytes) << name;
    }
  }
  EXPECT_THAT(test_support::NamesIn(folder.path()), ::testing::ElementsAre("x.npz"));
}

TEST(NpzTest, FailedWriteLeavesNothingBehind) {
  TempFolder folder;
  Array broken;
  broken.shape = {3};
  EXPECT_THAT(WriteNpz(folder.File("x.npz"), {{"a", broken}}), StatusIs(kInvalid, HasSubstr("a:")));
  EXPECT_THAT(WriteNpz(folder.File("x.npz"), {}), StatusIs(kInvalid));
  EXPECT_TRUE(test_support::NamesIn(folder.path()).empty());
}

TEST(NpzTest, RefusesMembersItCannotTrust) {
  RawMember wrong_checksum = Stored("a.npy", SmallNpy());
  wrong_checksum.crc ^= 1;
  RawMember encrypted = Stored("a.npy", SmallNpy());
  encrypted.flags = 1;
  RawMember bzip2 = Stored("a.npy", SmallNpy());
  bzip2.method = 12;
  RawMember inflated = Stored("a.npy", SmallNpy());
  inflated.size += 1;
  RawMember beyond = Stored("a.npy", SmallNpy());
  beyond.packed_size = beyond.size = 1u << 31;
  const std::string cut = SmallNpy().substr(0, SmallNpy().size() - 1);
  const std::pair<std::vector<RawMember>, const char*> cases[] = {
      {{wrong_checksum}, "member 'a.npy': damaged"},
      {{encrypted}, "encrypted"},
      {{bzip2}, "compression method 12"},
      {{inflated}, "compressed bytes hold at most"},
      {{beyond}, "x.npz"},
      {{Stored("a.npy", cut)}, "member 'a.npy'"},
      {{Stored("a.npy", SmallNpy() + "x")}, "after the header"},
      {{Stored("a.txt", SmallNpy())}, "ends in .npy"},
      {{Stored(".npy", SmallNpy())}, "ends in .npy"},
      {{Stored("folder/", "")}, "ends in .npy"},
      {{Stored("a.npy", SmallNpy()), Stored("a.npy", SmallNpy())}, "x.npz"},
      {{}, "holds no array"},
  };
  for (const auto& [members, message] : cases) {
    EXPECT_THAT(ReadBytes(Archive(members)),
                StatusIs(kInvalid, AllOf(HasSubstr("x.npz"), HasSubstr(message))));
  }
}

TEST(NpzTest, RefusesABombBeforeTakingMemory) {
  // 4 GB of zeros announced by a member of a few hundred bytes.
  Array zeros = *AllocateArray(DType::kUint8, {100000});
  TempFolder folder;
  ASSERT_THAT(WriteNpz(folder.File("good.npz"), {{"a", zeros}}), IsOk());
  const std::string good = ReadFileBytes(folder.File("good.npz"));
  const std::string honest = Little(SerializeNpy(zeros)->size(), 4);
  std::string lying = good;
  int replaced = 0;
  for (size_t at; (at = lying.find(honest)) != std::string::npos; ++replaced) {
    lying.replace(at, 4, Little(0xfffffff0, 4));
  }
  ASSERT_GE(replaced, 1);
  EXPECT_THAT(ReadBytes(lying), StatusIs(kInvalid, HasSubstr("compressed bytes hold at most")));
}

TEST(NpzTest, RefusesOverlappingMembers) {
  // Two directory entries for the same bytes: harmless twice, a bomb a thousand times.
  const RawMember member = Stored("a.npy", SmallNpy());
  const std::string archive = Archive({member, Stored("b.npy", SmallNpy())});
  const size_t length = archive.size() - 22 - 2 * (46 + 5);
  std::string shared = archive.substr(0, length / 2);
  const size_t directory_start = shared.size();
  for (const char* name : {"a.npy", "b.npy", "c.npy", "d.npy"}) {
    RawMember alias = member;
    alias.name = name;
    absl::StrAppend(&shared, "PK\x01\x02", Little(20, 2), CommonFields(alias), Little(0, 6),
                    Little(0, 4), Little(0, 4), name);
  }
  const size_t directory_size = shared.size() - directory_start;
  absl::StrAppend(&shared, "PK\x05\x06", Little(0, 4), Little(4, 2), Little(4, 2),
                  Little(directory_size, 4), Little(directory_start, 4), Little(0, 2));
  EXPECT_THAT(ReadBytes(shared), StatusIs(kInvalid, HasSubstr("the file has room for")));
}

TEST(NpzTest, KeepsTheLimitForTheSumOfAllArrays) {
  TempFolder folder;
  const std::string path =
      folder.Write("x.npz", Archive({Stored("a.npy", SmallNpy()), Stored("b.npy", SmallNpy())}));
  const int64_t total = static_cast<int64_t>(2 * SmallNpy().size());
  EXPECT_THAT(ReadNpz(path, total), IsOk());
  EXPECT_THAT(ReadNpz(path, total - 1), StatusIs(kInvalid, HasSubstr("larger than the limit")));
}

TEST(NpzTest, RefusesEveryTruncation) {
  TempFolder folder;
  ASSERT_THAT(WriteNpz(folder.File("x.npz"), {{"a", Sequence(DType::kInt32, {2})}}), IsOk());
  for (const std::string& bytes :
       {ReadFileBytes(folder.File("x.npz")), Archive({Stored("a.npy", SmallNpy())})}) {
    test_support::ExpectEveryTruncationRefused(bytes, "x.npz", kInvalid, ReadStatus);
  }
}

TEST(NpzTest, SurvivesEveryBitFlipAndNeverReturnsOtherValues) {
  const Array array = Sequence(DType::kInt32, {2});
  TempFolder folder;
  ASSERT_THAT(WriteNpz(folder.File("x.npz"), {{"a", array}}), IsOk());
  for (const std::string& bytes :
       {ReadFileBytes(folder.File("x.npz")), Archive({Stored("a.npy", SmallNpy())})}) {
    test_support::ExpectEveryBitFlipSurvived(
        bytes, "x.npz", kInvalid, [&](const std::string& path) {
          auto arrays = ReadNpz(path);
          if (!arrays.ok()) return arrays.status();
          EXPECT_EQ(arrays->begin()->second.bytes, array.bytes);
          return absl::OkStatus();
        });
  }
}

TEST(NpzTest, ListsNamesAndReadsNoArrayForThat) {
  TempFolder folder;
  const std::string path =
      folder.Write("x.npz", Archive({Stored("a.npy", "no array"), Stored("b/c.npy", SmallNpy())}));
  const auto keys = NpzKeys(path);
  ASSERT_THAT(keys, IsOk());
  EXPECT_THAT(*keys, ::testing::ElementsAre("a", "b/c"));
  EXPECT_THAT(NpzKeys(folder.Write("y.npz", Archive({Stored("a.txt", "")}))),
              StatusIs(kInvalid, HasSubstr("ends in .npy")));
}

TEST(NpzTest, RefusesOtherFiles) {
  EXPECT_THAT(ReadBytes(""), StatusIs(kInvalid));
  EXPECT_THAT(ReadBytes(SmallNpy()), StatusIs(kInvalid, HasSubstr("not a readable ZIP archive")));
  EXPECT_THAT(ReadNpz("/nonexistent/x.npz"), StatusIs(absl::StatusCode::kNotFound));
}

TEST(NpzTest, AgreesWithNumpy) {
  const std::string python = test_support::FindPython("numpy");
  if (python.empty()) GTEST_SKIP() << "no python3 with numpy";
  TempFolder folder;
  ASSERT_THAT(WriteNpz(folder.File("ours.npz"), {{"x", Sequence(DType::kFloat32, {2, 3})},
                                                 {"y", Sequence(DType::kInt64, {4})}}),
              IsOk());
  const char kProgram[] = R"(
import sys, numpy as np
folder = sys.argv[1]
ours = np.load(f'{folder}/ours.npz')
assert sorted(ours.files) == ['x', 'y'], ours.files
np.savez(f'{folder}/stored.npz', **ours)
np.savez_compressed(f'{folder}/deflated.npz', **ours)
assert ours['x'].shape == (2, 3) and ours['x'].dtype == np.float32
)";
  const test_support::PythonResult result = RunPython(python, kProgram, {folder.path()});
  ASSERT_EQ(result.exit_status, 0) << result.output;
  for (const char* name : {"stored.npz", "deflated.npz"}) {
    const auto arrays = ReadNpz(folder.File(name));
    ASSERT_THAT(arrays, IsOk()) << name;
    EXPECT_EQ(arrays->at("x").bytes, Sequence(DType::kFloat32, {2, 3}).bytes);
    EXPECT_EQ(arrays->at("y").bytes, Sequence(DType::kInt64, {4}).bytes);
  }
}

}  // namespace
}  // namespace laplaced
