// Pickles written by hand, wrapped as a legacy file where tensors matter.
#include "formats/torch_pickle.h"

#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "formats/weights_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace laplaced {
namespace {

using ::laplaced::test_support::IsOk;
using ::laplaced::test_support::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Kind = PickleValue::Kind;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

template <typename T>
std::string Bytes(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string Text(const std::string& text) {
  return "X" + Bytes(static_cast<uint32_t>(text.size())) + text;
}
std::string Int(int32_t value) { return "J" + Bytes(value); }
std::string Long(int64_t value) { return "\x8a\x08" + Bytes(value); }
std::string Name(const std::string& module, const std::string& object) {
  return "c" + module + "\n" + object + "\n";
}
std::string Tuple(const std::string& items) { return "(" + items + "t"; }
std::string Pickled(const std::string& opcodes) { return "\x80\x02" + opcodes + "."; }

std::string Storage(const std::string& elements, const std::string& more = "",
                    const std::string& module = "torch") {
  return Tuple(Text("storage") + Name(module, "FloatStorage") + Text("0") + Text("cpu") + elements +
               more) +
         "Q";
}
std::string Tensor(const std::string& storage, const std::string& offset, const std::string& sizes,
                   const std::string& strides) {
  return Name("torch._utils", "_rebuild_tensor_v2") +
         Tuple(storage + offset + Tuple(sizes) + Tuple(strides) + "\x89" + "}") + "R";
}
std::string Dict(const std::string& key, const std::string& value) {
  return "}" + Text(key) + value + "s";
}

// A legacy file of an object and of one storage "0" of four floats.
std::string Legacy(const std::string& object, int64_t elements = 4,
                   const std::string& little_endian = "\x88") {
  const float floats[] = {1, 2, 3, 4};
  return Pickled(std::string("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 12)) +
         Pickled(std::string("M\xe9\x03", 3)) + Pickled(Dict("little_endian", little_endian)) +
         Pickled(object) + Pickled("]" + Text("0") + "a") + Bytes(elements) +
         std::string(reinterpret_cast<const char*>(floats), sizeof floats);
}

absl::StatusOr<Weights> ReadObject(const std::string& object) {
  return ParseWeights(Legacy(object), "x");
}

TEST(TorchPickleTest, ReadsPlainValues) {
  const std::string tuple =
      Pickled(Tuple(Int(-5) + "K\xff" + "M\x01\x02" + Long(-3) + "\x8a" + std::string(1, '\0') +
                    "N\x88G" + std::string(8, 'f') + Text("t") + "U\x01u" + "]" + "}" + ")"));
  const std::string bytes = tuple + "rest";  // whose texts the values are
  const auto pickle = ParseTorchPickle(bytes);
  ASSERT_THAT(pickle, IsOk());
  EXPECT_EQ(pickle->size, tuple.size());
  const PickleValue& root = pickle->Root();
  ASSERT_EQ(root.kind, Kind::kTuple);
  ASSERT_EQ(root.items.size(), 13u);
  const Kind kinds[] = {Kind::kInteger, Kind::kInteger, Kind::kInteger, Kind::kInteger,
                        Kind::kInteger, Kind::kNone,    Kind::kBool,    Kind::kFloat,
                        Kind::kText,    Kind::kText,    Kind::kList,    Kind::kDict,
                        Kind::kTuple};
  for (size_t i = 0; i < root.items.size(); ++i) EXPECT_EQ(pickle->Item(root, i).kind, kinds[i]);
  const int64_t integers[] = {-5, 255, 0x201, -3, 0};
  for (size_t i = 0; i < 5; ++i) EXPECT_EQ(pickle->Item(root, i).integer, integers[i]);
  EXPECT_EQ(pickle->Item(root, 9).text, "u");
}

TEST(TorchPickleTest, RemembersAndSharesValues) {
  EXPECT_THAT(ParseTorchPickle(Pickled("N0")),
              StatusIs(kInvalid, HasSubstr("opcode POP (0x30) is not allowed")));
  const auto shared = ParseTorchPickle(Pickled("](" + Text("a") + "q\x01h\x01" + "e"));
  ASSERT_THAT(shared, IsOk());
  EXPECT_EQ(shared->Root().items[0], shared->Root().items[1]);
}

TEST(TorchPickleTest, RefusesByName) {
  const struct {
    std::string opcodes;
    const char* text;
  } cases[] = {
      {Name("os", "system") + Tuple(Text("true")) + "R", "the object 'os.system' is not allowed"},
      {Name("posix", "system") + Tuple(Text("true")) + "R", "'posix.system'"},
      {Name("builtins", "eval") + Tuple(Text("1")) + "R", "'builtins.eval'"},
      {Text("os") + Text("system") + "\x93", "'os.system'"},
      {"ios\nsystem\n", "opcode INST (0x69) is not allowed"},
      {"(" + Text("x") + "o", "opcode OBJ (0x6f)"},
      {"\x82\x01", "opcode EXT1 (0x82)"},
      {"I1\n", "opcode INT (0x49)"},
      {"P1\n", "opcode PERSID (0x50)"},
      {"\xff", "opcode 0xff is not allowed"},
      {Name("torch", "FloatStorage") + ")R", "'torch.FloatStorage' is used as a function"},
      {Name("torch._utils", "_rebuild_tensor_v2") + ")\x81", "is used as a class"},
      {Int(1) + ")R", "expected the name of a global"},
      {Int(1) + "}b", "sets attributes of something"},
      {"\x80\x01", "protocol 1, expected 2 to 5"},
  };
  for (const auto& c : cases) {
    EXPECT_THAT(ParseTorchPickle(Pickled(c.opcodes)), StatusIs(kInvalid, HasSubstr(c.text)));
  }
}

TEST(TorchPickleTest, RefusesWhatDoesNotAddUp) {
  const struct {
    std::string bytes;
    const char* text;
  } cases[] = {
      {"", "needs 1 bytes more"},
      {Pickled(""), "expected one value at the end"},
      {Pickled("NN"), "expected one value at the end"},
      {Pickled("N("), "expected one value at the end"},
      {Pickled("t"), "closes a bracket that was not opened"},
      {Pickled("a"), "takes more values than there are"},
      {Pickled("N(a"), "takes more values than there are"},  // not below the bracket
      {Pickled("h\x07"), "recalls value 7"},
      {Pickled("q\x01"), "remembers a value where there is none"},
      {Pickled("}(" + Text("k") + "u"), "a key without a value"},
      {Pickled("]" + Text("k") + "Ns"), "not a dictionary"},
      {Pickled("}Na"), "not a list"},
      {Pickled("X" + Bytes(uint32_t{0xffffffff}) + "abc"), "needs 4294967295 bytes more"},
      {"\x80\x02" + std::string("cos"), "the line of a name does not end"},
      {Pickled(std::string(1001, '(')), "nested too deeply"},
  };
  for (const auto& c : cases) {
    EXPECT_THAT(ParseTorchPickle(c.bytes), StatusIs(kInvalid, HasSubstr(c.text)));
  }
}

TEST(TorchPickleTest, OneListCannotFillTheMemory) {
  // A list of 1,000 pairs, copied by each of 10,000 calls of six bytes.
  std::string opcodes = "](";
  for (int i = 0; i < 1000; ++i)
    opcodes +=
        "](K\x01K\x01"
        "e";
  opcodes += "e\x85q\x01" + Name("collections", "OrderedDict") + "q\x02";
  std::string calls;
  for (int i = 0; i < 10000; ++i) calls += "h\x02h\x01R";
  EXPECT_THAT(ParseTorchPickle(Pickled("(" + opcodes + calls + "t")),
              StatusIs(kInvalid, HasSubstr("more than")));
}

TEST(TorchPickleTest, ReadsTensorsOfALegacyFile) {
  const auto weights = ReadObject(Dict("w", Tensor(Storage(Int(4)), Int(1), Int(3), Int(1))));
  ASSERT_THAT(weights, IsOk());
  EXPECT_THAT(weights->at("w").shape, ElementsAre(3));
  EXPECT_EQ(weights->at("w").data<float>()[0], 2);
}

TEST(TorchPickleTest, TheStrideOfASingleRowMeansNothing) {
  const auto weights = ReadObject(
      Dict("w", Tensor(Storage(Int(4)), Int(1), Int(1) + Int(2), Long(INT64_MAX) + Int(2))));
  ASSERT_THAT(weights, IsOk());
  EXPECT_THAT(weights->at("w").shape, ElementsAre(1, 2));
  EXPECT_EQ(weights->at("w").data<float>()[0], 2);
  EXPECT_EQ(weights->at("w").data<float>()[1], 4);
}

TEST(TorchPickleTest, ReadsAnOrderedDictOfPython2) {
  const std::string pair = "](U\x01w" + Tensor(Storage(Int(4)), Int(0), Int(4), Int(1)) + "e";
  const auto weights = ReadObject(Name("collections", "OrderedDict") + "](" + pair + "e\x85R");
  ASSERT_THAT(weights, IsOk());
  EXPECT_THAT(weights->at("w").shape, ElementsAre(4));
}

TEST(TorchPickleTest, ReadsTensorsOfPytorchBefore04) {
  const std::string tensor = Name("torch._utils", "_rebuild_tensor") +
                             Tuple(Storage(Int(4), "N", "torch.cuda") + Int(0) +
                                   Tuple(Int(2) + Int(2)) + Tuple(Int(2) + Int(1))) +
                             "R";
  const auto weights = ReadObject(Dict("w", tensor));
  ASSERT_THAT(weights, IsOk());
  EXPECT_THAT(weights->at("w").shape, ElementsAre(2, 2));
}

TEST(TorchPickleTest, TensorsMustLieInsideTheirStorage) {
  const struct {
    std::string tensor;
    const char* text;
  } cases[] = {
      {Tensor(Storage(Int(4)), Int(2), Int(3), Int(1)), "lead out of its storage"},
      {Tensor(Storage(Int(4)), Int(5), Int(0), Int(1)), "lead out of its storage"},
      {Tensor(Storage(Int(4)), Int(4), Int(1), Int(1)), "lead out of its storage"},
      {Tensor(Storage(Int(4)), Int(0), Int(2), Int(4)), "lead out of its storage"},
      {Tensor(Storage(Int(4)), Int(0), Int(2) + Int(2), Int(1) + Int(3)), "lead out of"},
      {Tensor(Storage(Int(4)), Int(0), Int(2), Long(INT64_MAX)), "lead out of its storage"},
      {Tensor(Storage(Int(4)), Int(0), Int(5), Int(0)), "an expanded tensor"},
      {Tensor(Storage(Int(4)), Int(0), Long(INT64_MAX) + Int(2), Int(0) + Int(0)), "too large"},
      {Tensor(Storage(Int(4)), Int(-1), Int(1), Int(1)), "an offset that is not negative"},
      {Tensor(Storage(Int(4)), Int(0), Int(-1), Int(1)), "a tuple of sizes"},
      {Tensor(Storage(Int(4)), Int(0), Int(1), Int(-1)), "a tuple of strides"},
      {Tensor(Storage(Int(4)), Int(0), Int(1), ""), "as many strides as sizes"},
      {Tensor(Storage(Int(-4)), Int(0), Int(1), Int(1)), "a number of elements"},
      {Tensor(Storage(Long(INT64_MAX)), Int(0), Int(1), Int(1)), "too large"},
      {Tensor(Storage(Int(4), "N"), Int(0), Int(5), Int(1)), "more elements"},
      {Tensor(Storage(Int(4), ")"), Int(0), Int(1), Int(1)), "part of another"},
      {Tensor(Int(4), Int(0), Int(1), Int(1)), "expected a reference to a storage"},
  };
  for (const auto& c : cases) {
    EXPECT_THAT(ReadObject(Dict("w", c.tensor)), StatusIs(kInvalid, HasSubstr(c.text)));
  }
}

TEST(TorchPickleTest, StoragesMustBeWhatTheirDescriptionSays) {
  const std::string good = Dict("w", Tensor(Storage(Int(4)), Int(0), Int(4), Int(1)));
  EXPECT_THAT(ParseWeights(Legacy(good), "x"), IsOk());
  EXPECT_THAT(ParseWeights(Legacy(good, 3), "x"), StatusIs(kInvalid, HasSubstr("has 3 elements")));
  EXPECT_THAT(ParseWeights(Legacy(good) + "x", "x"),
              StatusIs(kInvalid, HasSubstr("1 bytes after its last storage")));
  EXPECT_THAT(ParseWeights(Legacy(good, 4, "\x89"), "x"),
              StatusIs(kInvalid, HasSubstr("big-endian")));
  EXPECT_THAT(ReadObject(Dict("w", Tensor(Storage(Int(5)), Int(0), Int(4), Int(1)))),
              StatusIs(kInvalid, HasSubstr("its description says 5")));
  EXPECT_THAT(
      ParseWeights(Legacy(Dict("w", Tensor(Storage(Int(99)), Int(0), Int(4), Int(1))), 99), "x"),
      StatusIs(kInvalid, HasSubstr("needs 396 bytes, the file has 16 left")));
  EXPECT_THAT(ReadObject(Dict("epoch", Int(3))), StatusIs(kInvalid, HasSubstr("no tensor")));
  EXPECT_THAT(ReadObject("]"), StatusIs(kInvalid, HasSubstr("expected a dictionary")));
}

TEST(TorchPickleTest, ManyTensorsOfOneStorageCannotFillTheMemory) {
  std::string dict = "}";
  for (int i = 0; i < 17; ++i) {
    dict += Text(absl::StrCat("w", i)) + Tensor(Storage(Int(4)), Int(0), Int(4), Int(1)) + "s";
  }
  EXPECT_THAT(ReadObject(dict), StatusIs(kInvalid, HasSubstr("more than 16 times as large")));
}

}  // namespace
}  // namespace laplaced
