#include "server/rpc/untaken_answers.h"

#include <gmock/gmock.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <gtest/gtest.h>

#include <chrono>
#include <optional>

namespace laplaced {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

// A call of gRPC's own that waits for its status and goes nowhere.
class WaitingCall {
 public:
  WaitingCall() {
    grpc_channel_credentials* credentials = grpc_insecure_credentials_create();
    channel_ = grpc_channel_create("unix:/nowhere", credentials, nullptr);
    grpc_channel_credentials_release(credentials);
    queue_ = grpc_completion_queue_create_for_next(nullptr);
    call_ = grpc_channel_create_call(channel_, nullptr, GRPC_PROPAGATE_DEFAULTS, queue_,
                                     grpc_slice_from_static_string("/a/b"), nullptr,
                                     gpr_inf_future(GPR_CLOCK_REALTIME), nullptr);
    grpc_metadata_array_init(&trailers_);
    grpc_op op = {};
    op.op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    op.data.recv_status_on_client.trailing_metadata = &trailers_;
    op.data.recv_status_on_client.status = &status_;
    op.data.recv_status_on_client.status_details = &details_;
    EXPECT_EQ(grpc_call_start_batch(call_, &op, 1, nullptr, nullptr), GRPC_CALL_OK);
  }

  ~WaitingCall() {
    if (!ended_) {
      grpc_call_cancel(call_, nullptr);
      WaitForEnd(seconds(30));
    }
    grpc_slice_unref(details_);
    grpc_metadata_array_destroy(&trailers_);
    grpc_call_unref(call_);
    grpc_channel_destroy(channel_);
    grpc_completion_queue_shutdown(queue_);
    while (grpc_completion_queue_next(queue_, gpr_inf_future(GPR_CLOCK_REALTIME), nullptr).type !=
           GRPC_QUEUE_SHUTDOWN) {
    }
    grpc_completion_queue_destroy(queue_);
  }

  grpc_call* get() const { return call_; }

  // The status it ended with; nothing if it has not ended within `time`.
  std::optional<grpc_status_code> WaitForEnd(milliseconds time) {
    if (!ended_) {
      const gpr_timespec limit =
          gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                       gpr_time_from_millis(static_cast<int64_t>(time.count()), GPR_TIMESPAN));
      ended_ = grpc_completion_queue_next(queue_, limit, nullptr).type == GRPC_OP_COMPLETE;
    }
    if (!ended_) return std::nullopt;
    return status_;
  }

 private:
  grpc_channel* channel_;
  grpc_completion_queue* queue_;
  grpc_call* call_;
  grpc_metadata_array trailers_;
  grpc_status_code status_ = GRPC_STATUS_OK;
  grpc_slice details_ = grpc_empty_slice();
  bool ended_ = false;
};

class UntakenAnswersTest : public ::testing::Test {
 protected:
  UntakenAnswersTest() { grpc_init(); }
  ~UntakenAnswersTest() override { grpc_shutdown(); }

  // Hours, so that only the test's own clock ends calls.
  static UntakenLimits Limits() {
    return {/*max_bytes=*/100, /*patience=*/std::chrono::hours(10),
            /*pressed_patience=*/std::chrono::hours(1)};
  }
  static steady_clock::time_point In(int hours) {
    return steady_clock::now() + std::chrono::hours(hours);
  }
};

TEST_F(UntakenAnswersTest, EndsAnAnswerThatWaitedTooLong) {
  UntakenAnswers answers(Limits());
  WaitingCall call;
  {
    UntakenAnswers::Hold hold(answers, call.get(), 10);
    EXPECT_EQ(answers.bytes(), 10);
    EXPECT_EQ(answers.EndSlow(In(9)), 0);
    EXPECT_EQ(call.WaitForEnd(milliseconds(0)), std::nullopt);
    EXPECT_EQ(answers.EndSlow(In(11)), 1);
    EXPECT_EQ(call.WaitForEnd(seconds(30)), GRPC_STATUS_RESOURCE_EXHAUSTED);
    EXPECT_EQ(answers.bytes(), 10);  // gRPC still has it
    EXPECT_EQ(answers.EndSlow(In(12)), 0);
  }
  EXPECT_EQ(answers.bytes(), 0);
}

TEST_F(UntakenAnswersTest, UnderPressureEndsTheOldestUntilTheRestFits) {
  UntakenAnswers answers(Limits());
  WaitingCall first, second, third;
  UntakenAnswers::Hold one(answers, first.get(), 60), two(answers, second.get(), 50),
      three(answers, third.get(), 50);
  EXPECT_EQ(answers.EndSlow(In(0)), 0);  // younger than an answer on its way may be
  EXPECT_EQ(answers.EndSlow(In(2)), 1);
  EXPECT_EQ(first.WaitForEnd(seconds(30)), GRPC_STATUS_RESOURCE_EXHAUSTED);
  EXPECT_EQ(second.WaitForEnd(milliseconds(0)), std::nullopt);
  EXPECT_EQ(third.WaitForEnd(milliseconds(0)), std::nullopt);
}

TEST_F(UntakenAnswersTest, AnswersThatWereTakenCountNoMore) {
  UntakenAnswers answers(Limits());
  WaitingCall first, second;
  std::optional<UntakenAnswers::Hold> one;
  one.emplace(answers, first.get(), 90);
  UntakenAnswers::Hold two(answers, second.get(), 90);
  one.reset();
  EXPECT_EQ(answers.bytes(), 90);
  EXPECT_EQ(answers.EndSlow(In(2)), 0);
  EXPECT_EQ(answers.EndSlow(In(11)), 1);
  EXPECT_EQ(first.WaitForEnd(milliseconds(0)), std::nullopt);
}

TEST_F(UntakenAnswersTest, LooksByItself) {
  UntakenAnswers answers({/*max_bytes=*/100, /*patience=*/milliseconds(1),
                          /*pressed_patience=*/milliseconds(1)});
  WaitingCall call;
  UntakenAnswers::Hold hold(answers, call.get(), 10);
  EXPECT_EQ(call.WaitForEnd(seconds(30)), GRPC_STATUS_RESOURCE_EXHAUSTED);
}

}  // namespace
}  // namespace laplaced
