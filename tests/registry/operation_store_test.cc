#include "server/registry/operation_store.h"

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/registry/repository.h"
#include "server/registry/sealed_json.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using ::laplaced::test_support::IsOk;
using ::laplaced::test_support::NamesIn;
using ::laplaced::test_support::ReadFileBytes;
using ::laplaced::test_support::StatusIs;
using ::laplaced::test_support::TempFolder;
using ::laplaced::test_support::WriteFileBytes;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

OperationRecord Record(const std::string& id, OperationState state) {
  OperationRecord record;
  record.id = id;
  record.state = state;
  record.description = "fit of " + id;
  record.posterior_id = "p-" + id;
  record.error_code = 13;
  record.error_message = "message of " + id;
  record.start_time = "2026-01-02T03:04:05Z";
  record.end_time = "2026-01-02T03:04:06Z";
  record.model_version = 3;
  record.result = "gain of " + id;
  return record;
}

void ExpectSame(const OperationRecord& a, const OperationRecord& b) {
  EXPECT_EQ(a.id, b.id);
  EXPECT_EQ(a.state, b.state);
  EXPECT_EQ(a.description, b.description);
  EXPECT_EQ(a.posterior_id, b.posterior_id);
  EXPECT_EQ(a.error_code, b.error_code);
  EXPECT_EQ(a.error_message, b.error_message);
  EXPECT_EQ(a.start_time, b.start_time);
  EXPECT_EQ(a.end_time, b.end_time);
  EXPECT_EQ(a.model_version, b.model_version);
  EXPECT_EQ(a.result, b.result);
}

class OperationStoreTest : public ::testing::Test {
 protected:
  OperationStore Open(std::vector<std::string>* damaged = nullptr) {
    absl::StatusOr<OperationStore> store = OperationStore::Open(folder_, damaged);
    EXPECT_THAT(store, IsOk());
    return *std::move(store);
  }

  TempFolder root_;
  const std::string folder_ = root_.File("operations");
};

TEST_F(OperationStoreTest, KeepsEndedRecordsAsTheyAre) {
  const OperationRecord records[] = {Record("a", OperationState::kSucceeded),
                                     Record("b", OperationState::kFailed),
                                     Record("c", OperationState::kCancelled)};
  const OperationStore store = Open();
  EXPECT_TRUE(store.recovered().empty());
  for (const OperationRecord& record : records) ASSERT_THAT(store.Save(record), IsOk());
  const OperationStore again = Open();
  ASSERT_EQ(again.recovered().size(), 3u);
  for (size_t i = 0; i < 3; ++i) ExpectSame(again.recovered()[i], records[i]);
}

TEST_F(OperationStoreTest, RemovesARecordOnce) {
  const OperationStore store = Open();
  ASSERT_THAT(store.Save(Record("a", OperationState::kSucceeded)), IsOk());
  ASSERT_THAT(store.Save(Record("b", OperationState::kSucceeded)), IsOk());
  EXPECT_THAT(store.Remove("a"), IsOk());
  EXPECT_THAT(store.Remove("a"), IsOk());
  EXPECT_THAT(NamesIn(folder_), ElementsAre("b.json"));
  EXPECT_THAT(store.Remove("../b"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("id")));
}

TEST_F(OperationStoreTest, ReplacesTheRecordOfAnOperation) {
  const OperationStore store = Open();
  ASSERT_THAT(store.Save(Record("a", OperationState::kRunning)), IsOk());
  ASSERT_THAT(store.Save(Record("a", OperationState::kSucceeded)), IsOk());
  EXPECT_THAT(NamesIn(folder_), ElementsAre("a.json"));
  EXPECT_EQ(Open().recovered()[0].state, OperationState::kSucceeded);
}

TEST_F(OperationStoreTest, ReadsRecordsOfServersThatKnewNoModelVersions) {
  ASSERT_THAT(Open().Save(Record("a", OperationState::kSucceeded)), IsOk());
  Json json = *ReadSealedFile(folder_ + "/a.json");
  json.erase("model_version");
  json.erase("result");
  WriteFileBytes(folder_ + "/a.json", SealJson(json));
  OperationRecord expected = Record("a", OperationState::kSucceeded);
  expected.model_version = 0;
  expected.result = "";
  const OperationStore store = Open();
  ASSERT_EQ(store.recovered().size(), 1u);
  ExpectSame(store.recovered()[0], expected);
}

TEST_F(OperationStoreTest, MarksRunningOnesAsStoppedForGood) {
  OperationRecord running = Record("a", OperationState::kRunning);
  running.end_time = "";
  ASSERT_THAT(Open().Save(running), IsOk());
  const OperationRecord first = Open().recovered()[0];
  EXPECT_EQ(first.state, OperationState::kFailed);
  EXPECT_EQ(first.error_code, static_cast<int>(absl::StatusCode::kAborted));
  EXPECT_THAT(first.error_message, HasSubstr("the server stopped while the operation ran"));
  EXPECT_EQ(first.start_time, running.start_time);
  absl::Time end;
  EXPECT_TRUE(absl::ParseTime(absl::RFC3339_full, first.end_time, &end, nullptr));
  ExpectSame(Open().recovered()[0], first);
}

TEST_F(OperationStoreTest, SortsByStartNotByName) {
  const OperationStore store = Open();
  const std::pair<const char*, const char*> cases[] = {{"a", "2026-01-02T03:04:07Z"},
                                                       {"b", "2026-01-02T03:04:05.5Z"},
                                                       {"c", "2026-01-02T03:04:05Z"},
                                                       {"d", "2026-01-02T05:04:06+02:00"}};
  for (const auto& [id, start] : cases) {
    OperationRecord record = Record(id, OperationState::kSucceeded);
    record.start_time = start;
    ASSERT_THAT(store.Save(record), IsOk());
  }
  std::string order;
  const OperationStore again = Open();
  for (const OperationRecord& record : again.recovered()) order += record.id;
  EXPECT_EQ(order, "cbda");
}

TEST_F(OperationStoreTest, KeepsTheOrderOfIdsWhenTheClockWasSetBack) {
  const OperationStore store = Open();
  // Acknowledged in this order; the clock fell by a day in between, and ids went on.
  const std::pair<const char*, const char*> cases[] = {
      {"op-20260102t030405.000z-ffffff", "2026-01-02T03:04:05Z"},
      {"op-20260102t030405.001z-000000", "2026-01-01T03:05:00Z"},
      {"op-20260102t030405.002z-aaaaaa", "2026-01-01T03:06:00Z"}};
  for (const auto& [id, start] : cases) {
    OperationRecord record = Record(id, OperationState::kSucceeded);
    record.start_time = start;
    ASSERT_THAT(store.Save(record), IsOk());
  }
  const OperationStore again = Open();
  ASSERT_EQ(again.recovered().size(), 3u);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(again.recovered()[i].id, cases[i].first);
}

TEST_F(OperationStoreTest, NewIdsFollowThoseOfAClockThatWasAhead) {
  const absl::Time ahead = absl::Now() + absl::Hours(24 * 3);
  const std::string id = absl::StrCat(
      "op-", absl::FormatTime("%Y%m%dt%H%M%E3Sz", ahead, absl::UTCTimeZone()), "-ffffff");
  ASSERT_THAT(Open().Save(Record(id, OperationState::kSucceeded)), IsOk());
  EXPECT_LT(NewId("op"), id);
  Open();
  EXPECT_GT(NewId("op"), id);
}

TEST_F(OperationStoreTest, LeavesARecordThatTheDiskDoesNotGiveWhereItIs) {
  ASSERT_THAT(Open().Save(Record("good", OperationState::kSucceeded)), IsOk());
  const std::string path = folder_ + "/lost.json";
  std::filesystem::create_symlink("lost.json", path);  // cannot be opened, also by root
  std::vector<std::string> damaged;
  const OperationStore store = Open(&damaged);
  EXPECT_THAT(damaged, ElementsAre("lost.json"));
  EXPECT_EQ(store.recovered().size(), 1u);
  EXPECT_TRUE(std::filesystem::is_symlink(path));
  EXPECT_FALSE(std::filesystem::is_symlink(path + ".damaged"));
}

TEST_F(OperationStoreTest, SetsDamagedRecordsAside) {
  ASSERT_THAT(Open().Save(Record("good", OperationState::kSucceeded)), IsOk());
  const std::string good = ReadFileBytes(folder_ + "/good.json");
  for (size_t size = 0; size < good.size(); size += 17) {
    WriteFileBytes(folder_ + "/bad.json", good.substr(0, size));
    std::vector<std::string> damaged;
    const OperationStore store = Open(&damaged);
    EXPECT_THAT(damaged, ElementsAre("bad.json"));
    ASSERT_EQ(store.recovered().size(), 1u);
    EXPECT_FALSE(std::filesystem::exists(folder_ + "/bad.json"));
    EXPECT_EQ(ReadFileBytes(folder_ + "/bad.json.damaged"), good.substr(0, size));
    std::filesystem::remove(folder_ + "/bad.json.damaged");
  }
}

TEST_F(OperationStoreTest, NeverOverwritesWhatWasSetAside) {
  for (const char* content : {"one", "two", "three"}) {
    Open();
    WriteFileBytes(folder_ + "/bad.json", content);
    Open();
  }
  EXPECT_EQ(ReadFileBytes(folder_ + "/bad.json.damaged"), "one");
  EXPECT_EQ(ReadFileBytes(folder_ + "/bad.json.damaged.1"), "two");
  EXPECT_EQ(ReadFileBytes(folder_ + "/bad.json.damaged.2"), "three");
  std::vector<std::string> damaged;
  Open(&damaged);
  EXPECT_THAT(damaged, ElementsAre());
}

TEST_F(OperationStoreTest, RefusesARecordUnderAnotherNameOrWithAnUnknownState) {
  ASSERT_THAT(Open().Save(Record("a", OperationState::kSucceeded)), IsOk());
  std::filesystem::copy_file(folder_ + "/a.json", folder_ + "/b.json");
  Json object = *ReadSealedFile(folder_ + "/a.json");
  object["id"] = "c";
  object["state"] = "paused";
  WriteFileBytes(folder_ + "/c.json", SealJson(object));
  object["id"] = "d";
  object["state"] = "failed";
  object["format_version"] = 2;
  WriteFileBytes(folder_ + "/d.json", SealJson(object));
  std::vector<std::string> damaged;
  Open(&damaged);
  EXPECT_THAT(damaged, ElementsAre("b.json", "c.json", "d.json"));
}

TEST_F(OperationStoreTest, RemovesLeftoversAndIgnoresOtherFiles) {
  Open();
  WriteFileBytes(folder_ + "/.tmp-0123456789abcdef", "half a rec");
  WriteFileBytes(folder_ + "/README", "notes");
  std::vector<std::string> damaged;
  EXPECT_TRUE(Open(&damaged).recovered().empty());
  EXPECT_THAT(NamesIn(folder_), ElementsAre("README"));
  EXPECT_THAT(damaged, ElementsAre());
}

TEST_F(OperationStoreTest, RefusesIdsThatAreNotNames) {
  const OperationStore store = Open();
  for (const char* id : {"", "../a", "a/b", ".a"}) {
    EXPECT_THAT(store.Save(Record(id, OperationState::kRunning)),
                StatusIs(absl::StatusCode::kInvalidArgument));
  }
  EXPECT_TRUE(NamesIn(folder_).empty());
}

TEST_F(OperationStoreTest, NeedsAFolder) {
  root_.Write("operations", "a file");
  EXPECT_THAT(OperationStore::Open(folder_), ::testing::Not(IsOk()));
}

}  // namespace
}  // namespace laplaced
