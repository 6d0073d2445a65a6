#include "server/distributed/gloo_ranks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>

#include "tests/distributed/on_ranks.h"

namespace laplaced {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(ShareTest, PartsAreContiguousAndEven) {
  for (const int64_t n : {0, 1, 7, 8, 1000003}) {
    int64_t next = 0;
    for (int64_t r = 0; r < 4; ++r) {
      const Share share = ShareOf(n, r, 4);
      EXPECT_EQ(share.begin, next);
      EXPECT_GE(share.size(), n / 4);
      EXPECT_LE(share.size(), n / 4 + 1);
      next = share.end;
    }
    EXPECT_EQ(next, n);
  }
}

TEST(GlooRanksTest, SumsBroadcastsAndGathers) {
  struct Seen {
    at::Tensor sum, broadcast, gathered, empty;
    std::string text;
  };
  const auto seen = OnRanks<Seen>(3, [](const Ranks& ranks) {
    const auto r = static_cast<double>(ranks.rank());
    Seen mine;
    mine.sum = at::full({5}, r + 0.25, at::kDouble);
    EXPECT_TRUE(ranks.Sum(mine.sum).ok());
    mine.broadcast = at::full({2, 2}, r + 7, at::kFloat);
    EXPECT_TRUE(ranks.Broadcast(mine.broadcast).ok());
    // Parts of 0, 1 and 2 rows.
    mine.gathered = *ranks.Gather(at::full({ranks.rank(), 2}, r, at::kDouble));
    mine.empty = *ranks.Gather(at::empty({0, 3}, at::kLong));
    mine.text = ranks.rank() == 0 ? "from zero" : "something else";
    EXPECT_TRUE(BroadcastText(ranks, mine.text).ok());
    return mine;
  });
  ASSERT_EQ(seen.size(), 3u);
  for (const Seen& s : seen) {
    EXPECT_TRUE(at::equal(s.sum, at::full({5}, 3.75, at::kDouble)));
    EXPECT_TRUE(at::equal(s.broadcast, at::full({2, 2}, 7, at::kFloat)));
    EXPECT_TRUE(
        at::equal(s.gathered, at::tensor({1., 1., 2., 2., 2., 2.}, at::kDouble).view({3, 2})));
    EXPECT_EQ(s.empty.sizes(), (at::IntArrayRef{0, 3}));
    EXPECT_EQ(s.text, "from zero");
  }
}

TEST(GlooRanksTest, SumsHaveTheSameBitsOnEveryRank) {
  const auto sums = OnRanks<at::Tensor>(4, [](const Ranks& ranks) {
    at::manual_seed(static_cast<uint64_t>(ranks.rank()));
    at::Tensor t = at::sin(at::arange(10007, at::kDouble) * static_cast<double>(ranks.rank() + 1));
    EXPECT_TRUE(ranks.Sum(t).ok());
    return t;
  });
  ASSERT_EQ(sums.size(), 4u);
  for (const at::Tensor& sum : sums) EXPECT_TRUE(at::equal(sum, sums[0]));
}

TEST(GlooRanksTest, ARankThatGivesUpTellsTheOthersWhy) {
  const auto statuses = OnRanks<absl::Status>(3, [](const Ranks& ranks) {
    at::Tensor t = at::ones({1}, at::kDouble);
    EXPECT_TRUE(ranks.Sum(t).ok());
    if (ranks.rank() == 1) {
      const absl::Status why = absl::ResourceExhaustedError("no memory for 7 directions");
      const_cast<GlooRanks&>(static_cast<const GlooRanks&>(ranks)).GiveUp(why);
      return why;
    }
    absl::Status status;
    for (int i = 0; i < 100 && status.ok(); ++i) status = ranks.Sum(t);
    EXPECT_EQ(ranks.Sum(t), status) << "a group that lost a rank stays lost";
    return status;
  });
  ASSERT_EQ(statuses.size(), 3u);
  for (const int r : {0, 2}) {
    EXPECT_EQ(statuses[r].code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(statuses[r].message()),
                AllOf(HasSubstr("rank 1 gave up: no memory for 7 directions")));
  }
}

TEST(GlooRanksTest, AllRanksHearOfTheFirstError) {
  const auto statuses = OnRanks<std::vector<absl::Status>>(3, [](const Ranks& ranks) {
    std::vector<absl::Status> heard = {FirstError(ranks, absl::OkStatus())};
    for (const int64_t first : {0, 1, 2}) {
      heard.push_back(FirstError(
          ranks, ranks.rank() < first
                     ? absl::OkStatus()
                     : absl::NotFoundError("no file of " + std::to_string(ranks.rank()))));
    }
    return heard;
  });
  ASSERT_EQ(statuses.size(), 3u);
  for (const std::vector<absl::Status>& heard : statuses) {
    EXPECT_EQ(heard, (std::vector<absl::Status>{absl::OkStatus(),
                                                absl::NotFoundError("rank 0: no file of 0"),
                                                absl::NotFoundError("rank 1: no file of 1"),
                                                absl::NotFoundError("rank 2: no file of 2")}));
  }
}

TEST(GlooRanksTest, ARankThatLeavesEndsTheCallsOfTheOthersAtOnce) {
  const auto begin = std::chrono::steady_clock::now();
  const auto statuses = OnRanks<absl::Status>(
      3,
      [](const Ranks& ranks) {
        if (ranks.rank() == 2) return absl::OkStatus();  // and its connections close
        at::Tensor t = at::ones({1}, at::kDouble);
        absl::Status status;
        for (int i = 0; i < 100 && status.ok(); ++i) status = ranks.Sum(t);
        return status;
      },
      seconds(600));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(300));
  ASSERT_EQ(statuses.size(), 3u);
  EXPECT_EQ(statuses[0].code(), absl::StatusCode::kUnavailable) << statuses[0];
  EXPECT_EQ(statuses[1].code(), absl::StatusCode::kUnavailable) << statuses[1];
}

TEST(GlooRanksTest, ARankThatHangsEndsTheCallsOfTheOthersAfterTheTimeout) {
  std::promise<void> others_ended;
  std::shared_future<void> ended = others_ended.get_future().share();
  const auto statuses = OnRanks<absl::Status>(
      2,
      [&](const Ranks& ranks) {
        if (ranks.rank() == 1) {
          ended.wait();
          return absl::OkStatus();
        }
        at::Tensor t = at::ones({1}, at::kDouble);
        const absl::Status status = ranks.Sum(t);
        others_ended.set_value();
        return status;
      },
      milliseconds(500));
  ASSERT_EQ(statuses.size(), 2u);
  EXPECT_EQ(statuses[0].code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(statuses[0].message()), HasSubstr("a rank died or hangs"));
}

TEST(MeetingPointTest, SaysWhoDidNotCome) {
  const MeetingPoint meeting = MeetingPoint::InProcess(nullptr, 0, 3);
  const auto ranks = meeting.Join("test", milliseconds(200), seconds(1));
  ASSERT_EQ(ranks.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(ranks.status().message()),
              HasSubstr("rank 1, 2 did not come within 0.2 s"));
}

TEST(MeetingPointTest, AfterARankHasGivenUpNobodyWaits) {
  for (const int64_t early : {0, 1}) {
    const MeetingPoint first = MeetingPoint::InProcess(nullptr, early, 2);
    const MeetingPoint second = MeetingPoint::InProcess(&first, 1 - early, 2);
    ASSERT_EQ(first.Join("test", milliseconds(100), seconds(30)).status().code(),
              absl::StatusCode::kUnavailable);
    const auto begin = std::chrono::steady_clock::now();
    const auto ranks = second.Join("test", seconds(30), seconds(30));
    EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(15));
    ASSERT_EQ(ranks.status().code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(
        std::string(ranks.status().message()),
        HasSubstr(early == 0 ? "rank 0 gave up after 0.1 s" : "rank 1 gave up after 0.1 s"));
  }
}

TEST(MeetingPointTest, PostsAndAwaits) {
  const MeetingPoint first = MeetingPoint::InProcess(nullptr, 0, 2);
  const MeetingPoint second = MeetingPoint::InProcess(&first, 1, 2);
  EXPECT_EQ(second.Await("job", milliseconds(100)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  ASSERT_TRUE(first.Post("job", "fit").ok());
  EXPECT_EQ(*second.Await("job", milliseconds(100)), "fit");
}

}  // namespace
}  // namespace laplaced
