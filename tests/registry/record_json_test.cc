#include "server/registry/record_json.h"

#include <cstring>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace laplaced {

struct Inner {
  double number = 0;
};

struct Outer {
  std::string text;
  int64_t integer = 0;
  uint64_t natural = 0;
  int small = 0;
  bool flag = false;
  double number = 0;
  std::vector<double> numbers;
  std::vector<std::string> texts;
  std::vector<Inner> inners;
};

template <typename Visitor>
void VisitFields(Inner& record, Visitor& visit) {
  visit("number", record.number);
}

template <typename Visitor>
void VisitFields(Outer& record, Visitor& visit) {
  visit("text", record.text);
  visit("integer", record.integer);
  visit("natural", record.natural);
  visit("small", record.small);
  visit("flag", record.flag);
  visit("number", record.number);
  visit("numbers", record.numbers);
  visit("texts", record.texts);
  visit("inners", record.inners);
}

namespace {

using ::laplaced::test_support::IsOk;
using ::laplaced::test_support::StatusIs;
using ::testing::HasSubstr;

uint64_t Bits(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

absl::Status Write(Outer record, Json* object) {
  FieldWriter writer;
  VisitFields(record, writer);
  *object = writer.object();
  return writer.status();
}

absl::Status Read(const Json& object, Outer* record) {
  FieldReader reader(object);
  VisitFields(*record, reader);
  return reader.status();
}

// Through text, as on disk.
Outer RoundTrip(const Outer& record) {
  Json object;
  EXPECT_THAT(Write(record, &object), IsOk());
  absl::StatusOr<Json> read = UnsealJson(SealJson(object));
  EXPECT_THAT(read, IsOk());
  Outer result;
  EXPECT_THAT(Read(*read, &result), IsOk());
  return result;
}

TEST(RecordJsonTest, DoublesRoundTripBitForBit) {
  using Limits = std::numeric_limits<double>;
  Outer record;
  record.numbers = {0.0,
                    -0.0,
                    0.1,
                    1.0 / 3.0,
                    Limits::max(),
                    Limits::min(),
                    Limits::lowest(),
                    Limits::denorm_min(),
                    5.0,
                    1e22,
                    9007199254740993.0,
                    123456789012345678.0};
  std::mt19937_64 random(1);
  while (record.numbers.size() < 20000) {
    const uint64_t bits = random();
    double value;
    std::memcpy(&value, &bits, sizeof value);
    if (std::isfinite(value)) record.numbers.push_back(value);
  }
  const Outer read = RoundTrip(record);
  ASSERT_EQ(read.numbers.size(), record.numbers.size());
  for (size_t i = 0; i < record.numbers.size(); ++i) {
    EXPECT_EQ(Bits(read.numbers[i]), Bits(record.numbers[i])) << record.numbers[i];
  }
}

TEST(RecordJsonTest, ExtremeIntegersAndTextsRoundTrip) {
  Outer record;
  record.text = std::string("quote \" backslash \\ newline \n zero \0 end", 40);
  record.integer = INT64_MIN;
  record.natural = UINT64_MAX;
  record.small = -5;
  record.flag = true;
  record.texts = {"", "\xe2\x82\xac"};
  record.inners = {{1.5}, {-2.5}};
  const Outer read = RoundTrip(record);
  EXPECT_EQ(read.text, record.text);
  EXPECT_EQ(read.integer, INT64_MIN);
  EXPECT_EQ(read.natural, UINT64_MAX);
  EXPECT_EQ(read.small, -5);
  EXPECT_TRUE(read.flag);
  EXPECT_EQ(read.texts, record.texts);
  ASSERT_EQ(read.inners.size(), 2u);
  EXPECT_EQ(read.inners[1].number, -2.5);
}

TEST(RecordJsonTest, RefusesToWriteNumbersThatAreNotFinite) {
  using Limits = std::numeric_limits<double>;
  for (double bad : {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity()}) {
    Json object;
    Outer plain;
    plain.number = bad;
    EXPECT_THAT(Write(plain, &object),
                StatusIs(absl::StatusCode::kInternal, HasSubstr("number is not a finite")));
    Outer listed;
    listed.numbers = {1, bad};
    EXPECT_THAT(Write(listed, &object),
                StatusIs(absl::StatusCode::kInternal, HasSubstr("numbers[1]")));
    Outer nested;
    nested.inners = {{1}, {2}, {bad}};
    EXPECT_THAT(Write(nested, &object),
                StatusIs(absl::StatusCode::kInternal, HasSubstr("inners[2].number")));
  }
}

TEST(RecordJsonTest, RefusesFieldsOfAnotherTypeOrRange) {
  Json good;
  ASSERT_THAT(Write(Outer(), &good), IsOk());
  const std::pair<const char*, Json> changes[] = {
      {"text", 1},
      {"text", nullptr},
      {"integer", 1.5},
      {"integer", "1"},
      {"integer", uint64_t{1} << 63},
      {"natural", -1},
      {"small", int64_t{1} << 31},
      {"small", -(int64_t{1} << 31) - 1},
      {"flag", 1},
      {"flag", "true"},
      {"number", "1"},
      {"number", true},
      {"numbers", 1},
      {"numbers", Json::array({1, "x"})},
      {"texts", Json::array({1})},
      {"inners", Json::object()},
      {"inners", Json::array({1})},
      {"inners", Json::array({Json::object()})},
  };
  for (const auto& [name, value] : changes) {
    Json changed = good;
    changed[name] = value;
    Outer record;
    EXPECT_THAT(Read(changed, &record), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(name)))
        << value;
  }
  for (const auto& field : good.items()) {
    Json changed = good;
    changed.erase(field.key());
    Outer record;
    EXPECT_THAT(Read(changed, &record),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr(field.key() + " is missing")));
  }
}

TEST(RecordJsonTest, KeepsWhatIsMissingIfAsked) {
  const Json object = {{"integer", 7}, {"inners", Json::array({Json::object()})}};
  Outer record;
  record.text = "kept";
  FieldReader reader(object, FieldReader::Missing::kKeep);
  VisitFields(record, reader);
  EXPECT_THAT(reader.status(), IsOk());
  EXPECT_EQ(record.text, "kept");
  EXPECT_EQ(record.integer, 7);
  ASSERT_EQ(record.inners.size(), 1u);
  EXPECT_EQ(record.inners[0].number, 0);

  const Json wrong = {{"integer", "7"}};
  FieldReader strict(wrong, FieldReader::Missing::kKeep);
  VisitFields(record, strict);
  EXPECT_THAT(strict.status(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("integer")));
}

TEST(RecordJsonTest, ReadsWholeNumbersAsDoublesAndIgnoresOtherFields) {
  Json object;
  ASSERT_THAT(Write(Outer(), &object), IsOk());
  object["number"] = 3;
  object["more"] = {1, 2};
  Outer record;
  EXPECT_THAT(Read(object, &record), IsOk());
  EXPECT_EQ(record.number, 3.0);
}

}  // namespace
}  // namespace laplaced
