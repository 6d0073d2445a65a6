#include "server/serving/operations.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/event.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_folder.h"

// Sanitizers start threads their own way.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define LAPLACED_TEST_THREADS 1
#endif

#ifdef LAPLACED_TEST_THREADS
namespace {
std::atomic<bool> no_more_threads{false};
}

// Stands before the C library's.
extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                              void* (*run)(void*), void* argument) {
  if (no_more_threads) return EAGAIN;
  using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static const auto create = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
  return create(thread, attributes, run, argument);
}
#endif

namespace laplaced {
namespace {

using test_support::Event;
using test_support::IsOk;
using test_support::NamesIn;
using test_support::StatusIs;
using test_support::TempFolder;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

absl::StatusOr<std::string> Succeed(OperationHandle&) { return std::string("p-1"); }

absl::StatusOr<std::string> RunUntilCancelled(OperationHandle& handle) {
  while (!handle.cancelled()) std::this_thread::yield();
  return absl::CancelledError("stopped");
}

// Collects what a subscription is told.
class Watcher {
 public:
  std::function<void(const OperationSnapshot&)> Callback() {
    return [this](const OperationSnapshot& snapshot) {
      std::lock_guard<std::mutex> lock(mutex_);
      seen_.push_back(snapshot);
      changed_.notify_all();
    };
  }

  // All snapshots up to the final one.
  std::vector<OperationSnapshot> WaitForEnd() {
    return WaitFor(
        [](const OperationSnapshot& s) { return s.record.state != OperationState::kRunning; });
  }
  std::vector<OperationSnapshot> WaitFor(std::function<bool(const OperationSnapshot&)> wanted) {
    std::unique_lock<std::mutex> lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, test_support::kTestPatience,
                                  [&] { return !seen_.empty() && wanted(seen_.back()); }));
    return seen_;
  }
  size_t count() {
    std::lock_guard<std::mutex> lock(mutex_);
    return seen_.size();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<OperationSnapshot> seen_;
};

class OperationsTest : public ::testing::Test {
 protected:
  std::unique_ptr<Operations> Open(int64_t max_running = 4) {
    return OpenIn(folder_.path(), max_running);
  }

  static std::unique_ptr<Operations> OpenIn(const std::string& path, int64_t max_running) {
    absl::StatusOr<OperationStore> store = OperationStore::Open(path);
    EXPECT_THAT(store, IsOk());
    return std::make_unique<Operations>(*std::move(store), max_running);
  }

  // Runs `work` to its end and returns how it ended.
  static OperationSnapshot RunToEnd(Operations& operations, Operations::Work work) {
    const auto started = operations.Start("fit a/1", std::move(work));
    EXPECT_THAT(started, IsOk());
    Watcher watcher;
    const auto subscription = operations.Subscribe(started->record.id, watcher.Callback());
    const OperationSnapshot last = watcher.WaitForEnd().back();
    operations.Unsubscribe(*subscription);
    return last;
  }

  // Runs an operation whose end the disk does not take; then the disk is there again.
  OperationSnapshot EndWithoutADisk(Operations& operations) const {
    const OperationSnapshot end =
        RunToEnd(operations, [this](OperationHandle&) -> absl::StatusOr<std::string> {
          std::filesystem::remove_all(folder_.path());
          return std::string("p-1");
        });
    std::filesystem::create_directories(folder_.path());
    return end;
  }

  TempFolder folder_;
};

TEST_F(OperationsTest, SuccessCarriesTheResult) {
  auto operations = Open();
  const OperationSnapshot end = RunToEnd(*operations, Succeed);
  EXPECT_EQ(end.record.state, OperationState::kSucceeded);
  EXPECT_EQ(end.record.posterior_id, "p-1");
  EXPECT_EQ(end.record.description, "fit a/1");
  EXPECT_EQ(end.fraction, 1);
  EXPECT_THAT(end.record.start_time, HasSubstr("Z"));
  EXPECT_GE(end.record.end_time, end.record.start_time);
}

TEST_F(OperationsTest, OldOnesGoWhenThereAreTooMany) {
  const auto old = [](int64_t i) { return absl::StrFormat("op-20260101t000000.000z-%06d", i); };
  {
    const auto store = OperationStore::Open(folder_.path());
    ASSERT_THAT(store, IsOk());
    for (int64_t i = 0; i < kEndedOperationsKept + 2; ++i) {
      OperationRecord record;
      record.id = old(i);
      record.state = OperationState::kSucceeded;
      record.start_time = "2026-01-01T00:00:00Z";
      ASSERT_THAT(store->Save(record), IsOk());
    }
  }
  auto operations = Open();
  EXPECT_EQ(operations->List().size(), kEndedOperationsKept + 2);
  const auto running = operations->Start("fit a/1", RunUntilCancelled);
  ASSERT_THAT(running, IsOk());

  const std::vector<OperationSnapshot> left = operations->List();
  EXPECT_EQ(left.size(), kEndedOperationsKept + 1);
  EXPECT_EQ(left.front().record.id, running->record.id);
  EXPECT_EQ(left.back().record.id, old(2));
  EXPECT_THAT(operations->Get(old(1)),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("1000 that ended last")));
  EXPECT_THAT(operations->Get(old(2)), IsOk());
  EXPECT_EQ(NamesIn(folder_.path()).size(), kEndedOperationsKept + 1);
}

TEST_F(OperationsTest, WhatEndsLastStaysHoweverLongAgoItBegan) {
  auto operations = Open();
  Event end;
  const auto slow = operations->Start("fit a/1", [&](OperationHandle&) {
    EXPECT_TRUE(end.Wait());
    return std::string("p-slow");
  });
  ASSERT_THAT(slow, IsOk());
  std::string first;
  for (int64_t i = 0; i < kEndedOperationsKept; ++i) {
    const OperationSnapshot quick = RunToEnd(*operations, Succeed);
    if (i == 0) first = quick.record.id;
  }
  end.Set();
  Watcher watcher;
  const auto subscription = operations->Subscribe(slow->record.id, watcher.Callback());
  watcher.WaitForEnd();
  operations->Unsubscribe(*subscription);
  RunToEnd(*operations, Succeed);
  RunToEnd(*operations, Succeed);
  EXPECT_THAT(operations->Get(slow->record.id), IsOk());
  EXPECT_THAT(operations->Get(first), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(OperationsTest, FailureCarriesCodeAndMessage) {
  auto operations = Open();
  const OperationSnapshot end = RunToEnd(
      *operations, [](OperationHandle&) { return absl::DataLossError("the artifact is torn"); });
  EXPECT_EQ(end.record.state, OperationState::kFailed);
  EXPECT_EQ(end.record.error_code, static_cast<int>(absl::StatusCode::kDataLoss));
  EXPECT_EQ(end.record.error_message, "the artifact is torn");
  EXPECT_EQ(end.record.posterior_id, "");
}

TEST_F(OperationsTest, ExceptionOfTheWorkIsAFailure) {
  auto operations = Open();
  const OperationSnapshot end = RunToEnd(
      *operations,
      [](OperationHandle&) -> absl::StatusOr<std::string> { throw std::runtime_error("boom"); });
  EXPECT_EQ(end.record.state, OperationState::kFailed);
  EXPECT_EQ(end.record.error_code, static_cast<int>(absl::StatusCode::kInternal));
  EXPECT_THAT(end.record.error_message, HasSubstr("boom"));
}

TEST_F(OperationsTest, StartWithoutPlaceForTheRecordFails) {
  auto operations = Open(1);
  std::filesystem::remove_all(folder_.path());
  std::atomic<bool> ran{false};
  EXPECT_THAT(operations->Start("fit a/1",
                                [&](OperationHandle&) -> absl::StatusOr<std::string> {
                                  ran = true;
                                  return std::string();
                                }),
              Not(IsOk()));
  EXPECT_FALSE(ran);
  EXPECT_THAT(operations->List(), IsEmpty());
  // The refused operation takes no place.
  std::filesystem::create_directories(folder_.path());
  EXPECT_EQ(RunToEnd(*operations, Succeed).record.state, OperationState::kSucceeded);
}

TEST_F(OperationsTest, EndIsShownEvenIfTheDiskRefusesItsRecord) {
  auto operations = Open();
  const OperationSnapshot end =
      RunToEnd(*operations, [this](OperationHandle&) -> absl::StatusOr<std::string> {
        std::filesystem::remove_all(folder_.path());
        return std::string("p-1");
      });
  EXPECT_EQ(end.record.state, OperationState::kSucceeded);
}

TEST_F(OperationsTest, EndIsRecordedOnceTheDiskTakesIt) {
  auto operations = Open();
  const OperationSnapshot end = EndWithoutADisk(*operations);
  operations.reset();
  operations = Open();
  const auto found = operations->Get(end.record.id);
  ASSERT_THAT(found, IsOk());
  EXPECT_EQ(found->record.state, OperationState::kSucceeded);
  EXPECT_EQ(found->record.posterior_id, "p-1");
}

TEST_F(OperationsTest, EndIsRecordedAlsoWhileAnotherReportsAllTheTime) {
  auto operations = Open();
  const OperationSnapshot end = EndWithoutADisk(*operations);
  const auto busy =
      operations->Start("fit a/1", [](OperationHandle& handle) -> absl::StatusOr<std::string> {
        for (int64_t i = 0; !handle.cancelled(); ++i) {
          handle.Report("directions", i, 0, 0.5);
          std::this_thread::sleep_for(std::chrono::milliseconds(5));
        }
        return absl::CancelledError("stopped");
      });
  ASSERT_THAT(busy, IsOk());
  const std::string path = absl::StrFormat("%s/%s.json", folder_.path(), end.record.id);
  const auto give_up = std::chrono::steady_clock::now() + test_support::kTestPatience;
  while (!std::filesystem::exists(path) && std::chrono::steady_clock::now() < give_up) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_TRUE(std::filesystem::exists(path));
  EXPECT_EQ(operations->Get(busy->record.id)->record.state, OperationState::kRunning);
}

#ifdef LAPLACED_TEST_THREADS
TEST_F(OperationsTest, WithoutAThreadNothingIsLeftBehind) {
  auto operations = Open(/*max_running=*/1);
  no_more_threads = true;
  const auto refused = operations->Start("fit a/1", Succeed);
  no_more_threads = false;
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("thread")));
  EXPECT_THAT(operations->List(), IsEmpty());
  EXPECT_THAT(NamesIn(folder_.path()), IsEmpty());
  EXPECT_EQ(RunToEnd(*operations, Succeed).record.state, OperationState::kSucceeded);
  EXPECT_TRUE(operations->Shutdown(std::chrono::steady_clock::now()));
}
#endif

TEST_F(OperationsTest, RoomIsWhatStartWouldFind) {
  auto operations = Open(/*max_running=*/1);
  EXPECT_THAT(operations->CheckRoom(), IsOk());
  const auto started = operations->Start("fit a/1", RunUntilCancelled);
  ASSERT_THAT(started, IsOk());
  EXPECT_THAT(operations->CheckRoom(),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("max_concurrent_fits")));
  operations->Shutdown();
  EXPECT_THAT(operations->CheckRoom(), StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(OperationsTest, CancelStopsTheWork) {
  auto operations = Open();
  const auto started = operations->Start("fit a/1", RunUntilCancelled);
  ASSERT_THAT(started, IsOk());
  EXPECT_THAT(operations->Cancel(started->record.id), IsOk());
  Watcher watcher;
  const auto subscription = operations->Subscribe(started->record.id, watcher.Callback());
  EXPECT_EQ(watcher.WaitForEnd().back().record.state, OperationState::kCancelled);
  operations->Unsubscribe(*subscription);
}

TEST_F(OperationsTest, CancelOfAFinishedOneChangesNothing) {
  auto operations = Open();
  const OperationSnapshot end = RunToEnd(*operations, Succeed);
  const auto cancelled = operations->Cancel(end.record.id);
  ASSERT_THAT(cancelled, IsOk());
  EXPECT_EQ(cancelled->record.state, OperationState::kSucceeded);
  EXPECT_EQ(operations->Get(end.record.id)->revision, end.revision);
}

TEST_F(OperationsTest, UnknownIdsAreNotFound) {
  auto operations = Open();
  EXPECT_THAT(operations->Get("op-x"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("'op-x'")));
  EXPECT_THAT(operations->Cancel("op-x"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(operations->Subscribe("op-x", [](const OperationSnapshot&) {}),
              StatusIs(absl::StatusCode::kNotFound));
  operations->Unsubscribe(123);
}

TEST_F(OperationsTest, RefusesMoreThanMayRun) {
  auto operations = Open(1);
  const auto first = operations->Start("fit a/1", RunUntilCancelled);
  ASSERT_THAT(first, IsOk());
  EXPECT_THAT(operations->Start("fit b/1", Succeed),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("max_concurrent_fits")));
  EXPECT_EQ(operations->List().size(), 1u);
}

TEST_F(OperationsTest, ListsNewestFirst) {
  auto operations = Open();
  const std::string first = RunToEnd(*operations, Succeed).record.id;
  const std::string second = RunToEnd(*operations, Succeed).record.id;
  std::vector<std::string> ids;
  for (const OperationSnapshot& snapshot : operations->List()) ids.push_back(snapshot.record.id);
  EXPECT_THAT(ids, ElementsAre(second, first));
}

TEST_F(OperationsTest, FractionNeverFallsNorLeavesItsRange) {
  auto operations = Open();
  std::vector<double> fractions;
  const auto read = [&](OperationHandle& handle, double fraction) {
    handle.Report("curvature", 1, 10, fraction);
    fractions.push_back(operations->List()[0].fraction);
  };
  const OperationSnapshot end =
      RunToEnd(*operations, [&](OperationHandle& handle) -> absl::StatusOr<std::string> {
        for (const double f : {0.2, 0.1, std::nan(""), -3.0, 0.5, 7.0}) read(handle, f);
        return absl::InternalError("enough");
      });
  EXPECT_THAT(fractions, ElementsAre(0.2, 0.2, 0.2, 0.2, 0.5, 1.0));
  EXPECT_EQ(end.phase, "curvature");
  EXPECT_EQ(end.total, 10);
}

TEST_F(OperationsTest, TimeLeftIsUnknownAtFirstAndThenEstimated) {
  auto operations = Open();
  std::vector<double> left;
  RunToEnd(*operations, [&](OperationHandle& handle) -> absl::StatusOr<std::string> {
    for (const double f : {0.0, 0.5}) {
      handle.Report("curvature", 1, 10, f);
      left.push_back(operations->List()[0].seconds_left);
    }
    return std::string("p-1");
  });
  EXPECT_LT(left[0], 0);
  EXPECT_GE(left[1], 0);
}

TEST_F(OperationsTest, SubscriptionSeesPresentAndFinalStateInOrder) {
  auto operations = Open();
  Event go;
  const auto started =
      operations->Start("fit a/1", [&](OperationHandle& handle) -> absl::StatusOr<std::string> {
        EXPECT_TRUE(go.Wait());
        for (int i = 1; i <= 1000; ++i) handle.Report("directions", i, 1000, i / 1000.0);
        return std::string("p-1");
      });
  ASSERT_THAT(started, IsOk());
  Watcher watcher;
  const auto subscription = operations->Subscribe(started->record.id, watcher.Callback());
  watcher.WaitFor([](const OperationSnapshot&) { return true; });
  go.Set();
  const std::vector<OperationSnapshot> seen = watcher.WaitForEnd();
  operations->Unsubscribe(*subscription);
  EXPECT_EQ(seen.front().revision, 1u);
  for (size_t i = 1; i < seen.size(); ++i) EXPECT_GT(seen[i].revision, seen[i - 1].revision);
  EXPECT_EQ(seen.back().record.state, OperationState::kSucceeded);
  EXPECT_EQ(watcher.count(), seen.size());
}

TEST_F(OperationsTest, SubscriptionToAFinishedOneGetsTheFinalState) {
  auto operations = Open();
  const OperationSnapshot end = RunToEnd(*operations, Succeed);
  Watcher watcher;
  const auto subscription = operations->Subscribe(end.record.id, watcher.Callback());
  EXPECT_EQ(watcher.WaitForEnd().size(), 1u);
  operations->Unsubscribe(*subscription);
}

TEST_F(OperationsTest, SubscriptionMayEndItselfFromItsOwnCall) {
  auto operations = Open();
  const auto started = operations->Start("fit a/1", RunUntilCancelled);
  ASSERT_THAT(started, IsOk());
  std::mutex mutex;
  uint64_t number = 0;
  Event done;
  std::unique_lock<std::mutex> lock(mutex);
  const auto subscription =
      operations->Subscribe(started->record.id, [&](const OperationSnapshot&) {
        std::lock_guard<std::mutex> number_is_set(mutex);
        operations->Unsubscribe(number);
        done.Set();
      });
  number = *subscription;
  lock.unlock();
  EXPECT_TRUE(done.Wait());
}

TEST_F(OperationsTest, UnsubscribeWaitsForACallInProgress) {
  auto operations = Open();
  const auto started = operations->Start("fit a/1", RunUntilCancelled);
  ASSERT_THAT(started, IsOk());
  Event in_call;
  std::atomic<bool> call_returned{false};
  const auto subscription =
      operations->Subscribe(started->record.id, [&](const OperationSnapshot&) {
        in_call.Set();
        for (int i = 0; i < 1000; ++i) std::this_thread::yield();
        call_returned = true;
      });
  ASSERT_TRUE(in_call.Wait());
  operations->Unsubscribe(*subscription);
  EXPECT_TRUE(call_returned);
}

TEST_F(OperationsTest, BusyOperationDoesNotSilenceTheOthers) {
  auto operations = Open();
  const auto busy =
      operations->Start("fit a/1", [](OperationHandle& handle) -> absl::StatusOr<std::string> {
        while (!handle.cancelled()) handle.Report("directions", 1, 2, 0.5);
        return absl::CancelledError("stopped");
      });
  ASSERT_THAT(busy, IsOk());
  Watcher noisy;
  const auto subscription = operations->Subscribe(busy->record.id, noisy.Callback());
  EXPECT_EQ(RunToEnd(*operations, Succeed).record.state, OperationState::kSucceeded);
  operations->Unsubscribe(*subscription);
}

TEST_F(OperationsTest, ShutdownRecordsWhatItStopsAsAborted) {
  auto operations = Open();
  const auto started = operations->Start("fit a/1", RunUntilCancelled);
  ASSERT_THAT(started, IsOk());
  operations->Shutdown();
  const auto end = operations->Get(started->record.id);
  ASSERT_THAT(end, IsOk());
  EXPECT_EQ(end->record.state, OperationState::kFailed);
  EXPECT_EQ(end->record.error_code, static_cast<int>(absl::StatusCode::kAborted));
  EXPECT_THAT(operations->Start("fit b/1", Succeed),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("shutting down")));
  operations.reset();
  EXPECT_EQ(Open()->Get(started->record.id)->record.error_code,
            static_cast<int>(absl::StatusCode::kAborted));
}

TEST_F(OperationsTest, ShutdownGivesUpWorkThatDoesNotReact) {
  auto operations = Open();
  Event entered;
  Event release;
  Event late_report;
  const auto started =
      operations->Start("fit a/1", [&](OperationHandle& handle) -> absl::StatusOr<std::string> {
        entered.Set();
        EXPECT_TRUE(release.Wait());
        handle.Report("too late", 1, 2, 0.5);
        late_report.Set();
        return std::string("p-1");
      });
  ASSERT_THAT(started, IsOk());
  ASSERT_TRUE(entered.Wait());
  Watcher watcher;
  const auto subscription = operations->Subscribe(started->record.id, watcher.Callback());
  ASSERT_THAT(subscription, IsOk());

  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(50);
  EXPECT_FALSE(operations->Shutdown(deadline));
  EXPECT_GE(std::chrono::steady_clock::now(), deadline);
  const auto given_up = operations->Get(started->record.id);
  ASSERT_THAT(given_up, IsOk());
  EXPECT_EQ(given_up->record.state, OperationState::kFailed);
  EXPECT_EQ(given_up->record.error_code, static_cast<int>(absl::StatusCode::kAborted));
  EXPECT_NE(given_up->record.end_time, "");
  EXPECT_EQ(watcher.WaitForEnd().back().record.state, OperationState::kFailed);
  operations->Unsubscribe(*subscription);
  // On disk too, and not by the recovery of a later start.
  TempFolder copy;
  std::filesystem::copy(folder_.path(), copy.path(), std::filesystem::copy_options::recursive);
  EXPECT_EQ(OpenIn(copy.path(), 1)->Get(started->record.id)->record.end_time,
            given_up->record.end_time);

  release.Set();
  ASSERT_TRUE(late_report.Wait());
  EXPECT_TRUE(operations->Shutdown());
  const auto last = operations->Get(started->record.id);
  EXPECT_EQ(last->record.state, OperationState::kFailed);
  EXPECT_EQ(last->phase, "");
  EXPECT_EQ(last->revision, given_up->revision);
  operations.reset();
  EXPECT_EQ(Open()->Get(started->record.id)->record.error_code,
            static_cast<int>(absl::StatusCode::kAborted));
}

TEST_F(OperationsTest, ShutdownSaysThatEverythingEnded) {
  auto operations = Open();
  ASSERT_THAT(operations->Start("fit a/1", RunUntilCancelled), IsOk());
  RunToEnd(*operations, Succeed);
  EXPECT_TRUE(operations->Shutdown(std::chrono::steady_clock::now() + test_support::kTestPatience));
  EXPECT_TRUE(operations->Shutdown());
}

TEST_F(OperationsTest, EndedOnesSurviveARestart) {
  std::string id;
  {
    auto operations = Open();
    id = RunToEnd(*operations, Succeed).record.id;
  }
  auto operations = Open();
  const auto recovered = operations->Get(id);
  ASSERT_THAT(recovered, IsOk());
  EXPECT_EQ(recovered->record.state, OperationState::kSucceeded);
  EXPECT_EQ(recovered->record.posterior_id, "p-1");
  EXPECT_EQ(recovered->fraction, 1);
}

TEST_F(OperationsTest, OneThatRanWhenTheProcessDiedShowsUpAsFailed) {
  auto operations = Open();
  const auto started = operations->Start("fit a/1", RunUntilCancelled);
  ASSERT_THAT(started, IsOk());
  // The disk as a killed process would leave it.
  TempFolder after_crash;
  std::filesystem::copy(folder_.path(), after_crash.path(),
                        std::filesystem::copy_options::recursive);
  auto restarted = OpenIn(after_crash.path(), 1);
  const auto recovered = restarted->Get(started->record.id);
  ASSERT_THAT(recovered, IsOk());
  EXPECT_EQ(recovered->record.state, OperationState::kFailed);
  EXPECT_EQ(recovered->record.error_code, static_cast<int>(absl::StatusCode::kAborted));
  EXPECT_THAT(recovered->record.error_message, HasSubstr("stopped"));
  // It takes no place among those that run.
  EXPECT_EQ(RunToEnd(*restarted, Succeed).record.state, OperationState::kSucceeded);
}

TEST_F(OperationsTest, ManyThreadsStartWatchAndCancel) {
  auto operations = Open(64);
  std::vector<std::thread> threads;
  std::atomic<int> cancelled{0}, succeeded{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 10; ++i) {
        const bool cancel = (t + i) % 2 == 0;
        const auto started = operations->Start("fit a/1", cancel ? RunUntilCancelled : Succeed);
        ASSERT_THAT(started, IsOk());
        Watcher watcher;
        const auto subscription = operations->Subscribe(started->record.id, watcher.Callback());
        if (cancel) {
          EXPECT_THAT(operations->Cancel(started->record.id), IsOk());
        }
        const auto end = watcher.WaitForEnd().back();
        operations->Unsubscribe(*subscription);
        ++(end.record.state == OperationState::kCancelled ? cancelled : succeeded);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(cancelled, 20);
  EXPECT_EQ(succeeded, 20);
}

}  // namespace
}  // namespace laplaced
