#include "server/offline/long_broadcast.h"

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/distributed/on_ranks.h"
#include "tests/support/status_matchers.h"

namespace laplaced {
namespace {

using ::laplaced::test_support::IsOk;
using ::laplaced::test_support::StatusIs;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;

constexpr milliseconds kInterval{100};

// Searches for `time` on rank 0, which finds "it". Rank `stopped` is asked to stop.
absl::Status Search(const Ranks& ranks, milliseconds time, int64_t stopped, std::string& text) {
  LongBroadcast broadcast(ranks, kInterval);
  if (ranks.rank() == 0) {
    text = "it";
    const auto end = std::chrono::steady_clock::now() + time;
    while (std::chrono::steady_clock::now() < end) {
      if (absl::Status status = broadcast.StillSearching(); !status.ok()) return status;
      std::this_thread::sleep_for(milliseconds(10));
    }
  }
  const std::atomic<bool> stop{ranks.rank() == stopped};
  return broadcast.Finish(stop, text);
}

TEST(LongBroadcastTest, TheOthersWaitLongerThanACallOfTheirsMayTake) {
  constexpr seconds kTimeout{3};
  for (const milliseconds time : {milliseconds(0), milliseconds(5000)}) {
    const auto texts = OnRanks<std::string>(
        3,
        [&](const Ranks& ranks) {
          std::string text = "mine";
          EXPECT_THAT(Search(ranks, time, /*stopped=*/-1, text), IsOk());
          return text;
        },
        kTimeout);
    EXPECT_EQ(texts, std::vector<std::string>(3, "it"));
  }
}

TEST(LongBroadcastTest, ARankThatIsStoppedEndsTheSearch) {
  const auto ends = OnRanks<absl::Status>(2, [](const Ranks& ranks) {
    std::string text;
    const absl::Status status = Search(ranks, seconds(60), /*stopped=*/1, text);
    const_cast<GlooRanks&>(static_cast<const GlooRanks&>(ranks)).GiveUp(status);
    return status;
  });
  ASSERT_EQ(ends.size(), 2u);
  EXPECT_THAT(ends[1], StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(ends[0], StatusIs(absl::StatusCode::kUnavailable, HasSubstr("rank 1 gave up")));
}

}  // namespace
}  // namespace laplaced
