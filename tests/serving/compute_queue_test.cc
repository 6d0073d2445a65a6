#include "server/serving/compute_queue.h"

#include <atomic>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/event.h"
#include "tests/support/status_matchers.h"

namespace laplaced {
namespace {

using std::chrono::steady_clock;
using test_support::Event;
using test_support::IsOk;
using test_support::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr auto kForever = steady_clock::time_point::max();
constexpr auto kNoPatience = steady_clock::time_point::min();

// What became of one job.
struct Outcome {
  std::shared_ptr<ComputeContext> context = std::make_shared<ComputeContext>();
  std::atomic<int> runs{0};
  std::promise<absl::Status> ended;  // OK: it ran

  ComputeQueue::Job Job(std::function<void()> work = nullptr) {
    ComputeQueue::Job job;
    job.context = context;
    job.run = [this, work = std::move(work)](double) {
      ++runs;
      if (work) work();
      ended.set_value(absl::OkStatus());
    };
    job.drop = [this](const absl::Status& status) { ended.set_value(status); };
    return job;
  }
  absl::Status Wait() { return ended.get_future().get(); }
};

// Keeps the queue's thread busy until released.
class Blocker {
 public:
  explicit Blocker(ComputeQueue& queue) {
    EXPECT_THAT(queue.Submit(outcome_.Job([this] {
      started_.Set();
      EXPECT_TRUE(released_.Wait());
    })),
                IsOk());
    EXPECT_TRUE(started_.Wait());
  }
  void Release() { released_.Set(); }
  absl::Status Wait() { return outcome_.Wait(); }

 private:
  Outcome outcome_;
  Event started_;
  Event released_;
};

TEST(ComputeQueueTest, RunsJobsInTheOrderOfSubmission) {
  ComputeQueue queue(10, nullptr);
  Blocker blocker(queue);
  std::vector<int> order;
  std::vector<Outcome> outcomes(5);
  for (int i = 0; i < 5; ++i) {
    ASSERT_THAT(queue.Submit(outcomes[i].Job([&order, i] { order.push_back(i); })), IsOk());
  }
  EXPECT_EQ(queue.waiting(), 5);
  blocker.Release();
  for (Outcome& outcome : outcomes) EXPECT_THAT(outcome.Wait(), IsOk());
  EXPECT_THAT(order, ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(blocker.Wait(), IsOk());
}

TEST(ComputeQueueTest, RunsTheStartFunctionFirstOnTheSameThread) {
  std::thread::id start_thread;
  ComputeQueue queue(1, [&] { start_thread = std::this_thread::get_id(); });
  Outcome outcome;
  std::thread::id job_thread;
  ASSERT_THAT(queue.Submit(outcome.Job([&] { job_thread = std::this_thread::get_id(); })), IsOk());
  EXPECT_THAT(outcome.Wait(), IsOk());
  EXPECT_EQ(start_thread, job_thread);
  EXPECT_NE(job_thread, std::this_thread::get_id());
}

TEST(ComputeQueueTest, RefusesWhenFullAndAcceptsAgainLater) {
  ComputeQueue queue(2, nullptr);
  Blocker blocker(queue);
  Outcome first, second, refused, later;
  ASSERT_THAT(queue.Submit(first.Job()), IsOk());
  ASSERT_THAT(queue.Submit(second.Job()), IsOk());
  EXPECT_THAT(queue.Submit(refused.Job()),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("2 requests wait"), HasSubstr("try again"))));
  blocker.Release();
  EXPECT_THAT(second.Wait(), IsOk());
  EXPECT_THAT(queue.Submit(later.Job()), IsOk());
  EXPECT_THAT(later.Wait(), IsOk());
  queue.Shutdown(kForever);
  EXPECT_EQ(refused.runs, 0);
}

TEST(ComputeQueueTest, DropsAJobThatWasCancelledWhileItWaited) {
  ComputeQueue queue(2, nullptr);
  Blocker blocker(queue);
  Outcome outcome;
  ASSERT_THAT(queue.Submit(outcome.Job()), IsOk());
  outcome.context->cancelled = true;
  blocker.Release();
  EXPECT_THAT(outcome.Wait(), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_EQ(outcome.runs, 0);
}

TEST(ComputeQueueTest, DropsAJobWhoseDeadlineHasPassed) {
  ComputeQueue queue(2, nullptr);
  Outcome outcome;
  outcome.context->deadline = steady_clock::now() - std::chrono::milliseconds(1);
  ASSERT_THAT(queue.Submit(outcome.Job()), IsOk());
  EXPECT_THAT(outcome.Wait(), StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_EQ(outcome.runs, 0);
}

TEST(ComputeQueueTest, TellsHowLongJobsWaitAndTake) {
  ComputeQueue queue(2, nullptr);
  EXPECT_EQ(queue.mean_job_seconds(), 0);
  Blocker blocker(queue);
  double waited = -1;
  Event done;
  ComputeQueue::Job job;
  job.context = std::make_shared<ComputeContext>();
  job.run = [&](double queue_seconds) {
    waited = queue_seconds;
    done.Set();
  };
  ASSERT_THAT(queue.Submit(std::move(job)), IsOk());
  blocker.Release();
  ASSERT_TRUE(done.Wait());
  EXPECT_GT(waited, 0);
  EXPECT_GT(queue.mean_job_seconds(), 0);
}

TEST(ComputeQueueTest, ShutdownWithPatienceFinishesWhatWaits) {
  ComputeQueue queue(10, nullptr);
  Blocker blocker(queue);
  std::vector<Outcome> outcomes(3);
  for (Outcome& outcome : outcomes) ASSERT_THAT(queue.Submit(outcome.Job()), IsOk());
  blocker.Release();
  queue.Shutdown(kForever);
  for (Outcome& outcome : outcomes) EXPECT_EQ(outcome.runs, 1);
}

TEST(ComputeQueueTest, ShutdownWithoutPatienceCancelsTheRunningJobAndRefusesTheRest) {
  ComputeQueue queue(10, nullptr);
  Outcome running, waiting;
  Event started;
  ASSERT_THAT(queue.Submit(running.Job([&] {
    started.Set();
    while (!running.context->cancelled) std::this_thread::yield();
  })),
              IsOk());
  ASSERT_TRUE(started.Wait());
  ASSERT_THAT(queue.Submit(waiting.Job()), IsOk());
  queue.Shutdown(kNoPatience);
  EXPECT_THAT(running.Wait(), IsOk());
  EXPECT_THAT(waiting.Wait(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("shut down")));
  EXPECT_EQ(waiting.runs, 0);
}

TEST(ComputeQueueTest, ShutdownGivesUpAtItsDeadline) {
  ComputeQueue queue(10, nullptr);
  Outcome running;
  Event started;
  ASSERT_THAT(queue.Submit(running.Job([&] {
    started.Set();
    while (!running.context->cancelled) std::this_thread::yield();
  })),
              IsOk());
  ASSERT_TRUE(started.Wait());
  queue.Shutdown(steady_clock::now() + std::chrono::milliseconds(20));
  EXPECT_THAT(running.Wait(), IsOk());
}

TEST(ComputeQueueTest, RefusesAfterShutdown) {
  ComputeQueue queue(10, nullptr);
  queue.Shutdown(kForever);
  queue.Shutdown(kNoPatience);
  Outcome outcome;
  EXPECT_THAT(queue.Submit(outcome.Job()),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("shutting down")));
}

TEST(ComputeQueueTest, AnswersEveryJobOnceUnderConcurrentClientsAndShutdown) {
  constexpr int kThreads = 4;
  constexpr int kJobs = 500;
  std::atomic<int> ran{0}, dropped{0}, refused{0};
  {
    ComputeQueue queue(8, nullptr);
    std::vector<std::thread> clients;
    for (int t = 0; t < kThreads; ++t) {
      clients.emplace_back([&] {
        for (int i = 0; i < kJobs; ++i) {
          ComputeQueue::Job job;
          job.context = std::make_shared<ComputeContext>();
          job.context->cancelled = i % 7 == 0;
          job.run = [&](double) { ++ran; };
          job.drop = [&](const absl::Status&) { ++dropped; };
          if (!queue.Submit(std::move(job)).ok()) ++refused;
        }
      });
    }
    while (ran + dropped + refused < kJobs) std::this_thread::yield();
    queue.Shutdown(steady_clock::now() + std::chrono::milliseconds(1));
    for (std::thread& client : clients) client.join();
  }
  EXPECT_EQ(ran + dropped + refused, kThreads * kJobs);
}

}  // namespace
}  // namespace laplaced
