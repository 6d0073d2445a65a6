// Streams of rows against a server that drops, refuses and falls silent: every row is answered
// once, in order, by one posterior, or the error says where the answers end.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cpp/client.h"
#include "tests/client/fake_server.h"
#include "tests/client/statusless_server.h"

namespace laplace::client {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

ClientOptions FastOptions() {
  ClientOptions options;
  options.retry.initial_backoff = absl::Milliseconds(2);
  options.retry.max_backoff = absl::Milliseconds(10);
  return options;
}

std::unique_ptr<Client> ConnectTo(const std::string& address, const ClientOptions& options) {
  auto client = Client::Connect(address, options);
  EXPECT_TRUE(client.ok()) << client.status();
  return *std::move(client);
}

grpc::Status Unavailable() { return {grpc::StatusCode::UNAVAILABLE, "the connection broke"}; }

// The pixel that comes back as the score of a row; no two of neighbouring batches are the same.
int PixelOf(int64_t row) { return static_cast<int>(row * 7 % 251); }

// Yields `rows` rows from `first_row` on in batches of `batch`.
RowSource Rows(int64_t rows, int64_t batch, int64_t first_row = 0) {
  auto next = std::make_shared<int64_t>(first_row);
  return [=]() -> absl::StatusOr<Array> {
    const int64_t count = std::min(batch, first_row + rows - *next);
    Array array;
    array.dtype = DType::kUint8;
    array.shape = {count, 1, 2};
    for (int64_t i = 0; i < count; ++i, ++*next) {
      array.bytes += std::string{'\1', static_cast<char>(PixelOf(*next))};
    }
    return array;
  };
}

// Takes answers and checks that they are the next ones.
struct Taker {
  int64_t next_row = 0;
  int answers = 0;
  absl::Status result;
  std::vector<std::string> problems;

  ScoresSink sink() {
    return [this](int64_t first_row, Scores scores) {
      if (first_row != next_row) problems.push_back(absl::StrCat("answer from row ", first_row));
      for (double value : scores.ood_scores[0].values) {
        if (value != PixelOf(next_row)) {
          problems.push_back(absl::StrCat("row ", next_row, " has ", value));
        }
        ++next_row;
      }
      ++answers;
      return result;
    };
  }
};

TEST(ScoreStream, AnswersEveryRowInOrder) {
  FakeServer server;
  Taker taker;
  taker.next_row = 40;
  const absl::Status status = ConnectTo(server.address(), FastOptions())
                                  ->ScoreStream({"digits"}, Rows(1003, 10, 40), taker.sink(), {40});
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(taker.next_row, 1043);
  EXPECT_EQ(taker.answers, 101);
  EXPECT_THAT(taker.problems, ElementsAre());
  ASSERT_EQ(server.Streams().size(), 1u);
  EXPECT_EQ(server.Streams()[0].start.first_row(), 40);
  EXPECT_EQ(server.Streams()[0].batch_rows.back(), 3);
}

TEST(ScoreStream, SendsTheOptions) {
  FakeServer server;
  ScoreRequest request;
  request.model = "digits";
  request.version = 3;
  request.ood_scores = {"variance"};
  request.variance_mode = VarianceMode::kSampled;
  request.samples = 8;
  request.seed = 5;
  Taker taker;
  const auto client = ConnectTo(server.address(), FastOptions());
  EXPECT_TRUE(client->ScoreStream(request, Rows(3, 2), taker.sink(), {0, "p-1"}).ok());
  const v1::PredictStreamStart start = server.Streams()[0].start;
  EXPECT_EQ(start.score().version(), 3);
  EXPECT_THAT(start.score().ood_scores(), ElementsAre("variance"));
  EXPECT_EQ(start.score().variance_mode(), v1::VARIANCE_MODE_SAMPLED);
  EXPECT_EQ(start.score().samples(), 8);
  EXPECT_EQ(start.score().seed(), 5u);
  EXPECT_EQ(start.posterior_id(), "p-1");
  EXPECT_FALSE(start.score().has_inputs());
}

TEST(ScoreStream, WithoutRowsAsksNothing) {
  FakeServer server;
  Taker taker;
  const auto client = ConnectTo(server.address(), FastOptions());
  EXPECT_TRUE(client->ScoreStream({"digits"}, Rows(0, 5), taker.sink()).ok());
  EXPECT_EQ(server.Calls("PredictStream"), 0);
}

TEST(PredictStream, AnswersEveryRowInOrder) {
  FakeServer server;
  PredictRequest request;
  request.model = "digits";
  request.temperature = 0.5;
  int64_t next_row = 0;
  server.FaultNextStream({2, 2, Unavailable()});
  const auto client = ConnectTo(server.address(), FastOptions());
  const absl::Status status = client->PredictStream(
      request, Rows(25, 4), [&next_row](int64_t first_row, Prediction prediction) {
        EXPECT_EQ(first_row, next_row);
        EXPECT_EQ(prediction.temperature, 0.5);
        for (double value : prediction.ood_scores[0].values) EXPECT_EQ(value, PixelOf(next_row++));
        return absl::OkStatus();
      });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(next_row, 25);
  EXPECT_EQ(server.Streams().size(), 2u);
}

// Seven batches; the stream ends after each number of answers, with none, one or two batches read
// on top.
TEST(ScoreStream, LosesAndRepeatsNothingWhereverItBreaks) {
  for (int answers = 0; answers <= 7; ++answers) {
    for (int reads = 0; reads <= 2; ++reads) {
      FakeServer server;
      server.FaultNextStream({answers, reads, Unavailable()});
      Taker taker;
      const auto client = ConnectTo(server.address(), FastOptions());
      const absl::Status status = client->ScoreStream({"digits"}, Rows(20, 3), taker.sink());
      EXPECT_TRUE(status.ok()) << answers << " " << reads << " " << status;
      EXPECT_EQ(taker.next_row, 20) << answers << " " << reads;
      EXPECT_EQ(taker.answers, 7) << answers << " " << reads;
      EXPECT_THAT(taker.problems, ElementsAre()) << answers << " " << reads;
      const auto streams = server.Streams();
      // Nothing is left to ask after the last answer.
      ASSERT_EQ(streams.size(), answers == 7 ? 1u : 2u) << answers << " " << reads;
      if (answers == 7) continue;
      EXPECT_EQ(streams[1].start.first_row(), 3 * answers);
      EXPECT_EQ(streams[1].batch_rows.size(), 7u - answers);
      EXPECT_EQ(streams[1].start.posterior_id(), answers == 0 ? "" : "p-1");
      EXPECT_EQ(streams[1].start.score().version(), answers == 0 ? 0 : 3);
    }
  }
}

TEST(ScoreStream, SurvivesABreakAfterEveryAnswer) {
  FakeServer server;
  server.FaultEveryStream({1, 1, Unavailable()});
  Taker taker;
  const auto client = ConnectTo(server.address(), FastOptions());
  const absl::Status status = client->ScoreStream({"digits"}, Rows(60, 2), taker.sink());
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(taker.next_row, 60);
  EXPECT_THAT(taker.problems, ElementsAre());
  EXPECT_EQ(server.Streams().size(), 30u);
}

TEST(ScoreStream, GivesUpWhenNothingMoves) {
  FakeServer server;
  server.FaultNextStream({2, 1, Unavailable()});
  server.FaultEveryStream({0, 1, Unavailable()});
  Taker taker;
  const auto client = ConnectTo(server.address(), FastOptions());
  const absl::Status status = client->ScoreStream({"digits"}, Rows(60, 5), taker.sink());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("the connection broke"), HasSubstr("given up after 4 attempts"),
                    HasSubstr("the first row without an answer is 10")));
  EXPECT_EQ(taker.next_row, 10);
  // The one that got somewhere is the first failure of the four.
  EXPECT_EQ(server.Streams().size(), 4u);
}

TEST(ScoreStream, ComesBackWhenTheServerSaysSoAndNotEarlier) {
  FakeServer server;
  server.FaultNextStream({1, 1,
                          ErrorWithRetryDelay(grpc::StatusCode::RESOURCE_EXHAUSTED, "queue is full",
                                              absl::Milliseconds(200))});
  Taker taker;
  const absl::Time start = absl::Now();
  const auto client = ConnectTo(server.address(), FastOptions());
  EXPECT_TRUE(client->ScoreStream({"digits"}, Rows(9, 2), taker.sink()).ok());
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(200));
  EXPECT_EQ(taker.next_row, 9);
  EXPECT_THAT(taker.problems, ElementsAre());
}

TEST(ScoreStream, DoesNotWaitLongerThanAnAnswerMayTake) {
  FakeServer server;
  server.FaultNextStream({1, 1,
                          ErrorWithRetryDelay(grpc::StatusCode::RESOURCE_EXHAUSTED, "queue is full",
                                              absl::Minutes(5))});
  Taker taker;
  const absl::Time start = absl::Now();
  const auto client = ConnectTo(server.address(), FastOptions());
  const absl::Status status = client->ScoreStream({"digits"}, Rows(9, 2), taker.sink());
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_LT(absl::Now() - start, absl::Seconds(30));
}

TEST(ScoreStream, OtherErrorsAreFinalAndAnswersBeforeThemStand) {
  FakeServer server;
  server.FaultNextStream(
      {2, 1, {grpc::StatusCode::INVALID_ARGUMENT, "inputs: row 7 is not finite"}});
  Taker taker;
  const auto client = ConnectTo(server.address(), FastOptions());
  const absl::Status status = client->ScoreStream({"digits"}, Rows(20, 3), taker.sink());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "inputs: row 7 is not finite; the first row without an answer is 6");
  EXPECT_EQ(taker.next_row, 6);
  EXPECT_EQ(server.Streams().size(), 1u);
  EXPECT_EQ(client->ScoreStream({"nobody"}, Rows(2, 2), taker.sink()).code(),
            absl::StatusCode::kNotFound);
}

TEST(ScoreStream, RefusesAnAnswerOfAnotherPosterior) {
  FakeServer server;
  FakeServer::StreamFault fault = {9, 0};
  fault.posterior_id = "p-2";
  server.FaultNextStream({1, 1, Unavailable()});
  server.FaultNextStream(fault);
  Taker taker;
  const auto client = ConnectTo(server.address(), FastOptions());
  const absl::Status status = client->ScoreStream({"digits"}, Rows(20, 3), taker.sink());
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("posterior p-2 answered row 3 in place of p-1"));
  EXPECT_EQ(taker.next_row, 3);
}

TEST(ScoreStream, SaysWhichRowAnotherPosteriorWouldHaveAnswered) {
  FakeServer server;
  server.FaultNextStream({2, 2, Unavailable()});
  Taker taker;
  const auto client = ConnectTo(server.address(), FastOptions());
  const ScoresSink take = taker.sink();
  const absl::Status status =
      client->ScoreStream({"digits"}, Rows(20, 3), [&](int64_t first_row, Scores scores) {
        const absl::Status taken = take(first_row, std::move(scores));
        if (first_row == 3) server.SetActivePosterior("p-2");
        return taken;
      });
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("the rows before 6 were answered by posterior p-1"),
                    Not(HasSubstr("attempts"))));
  EXPECT_EQ(taker.next_row, 6);
}

TEST(ScoreStream, ChecksThatAnswersBelongToTheirRows) {
  FakeServer server;
  FakeServer::StreamFault fault = {9, 0};
  fault.row_shift = 1;
  server.FaultNextStream(fault);
  Taker taker;
  const auto client = ConnectTo(server.address(), FastOptions());
  const absl::Status status = client->ScoreStream({"digits"}, Rows(20, 3), taker.sink());
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("expected an answer to 3 rows from row 0, got one to 3 from row 1"));
  EXPECT_EQ(taker.answers, 0);
}

TEST(ScoreStream, GoesOnInTheModeThatAutoMeant) {
  FakeServer server;
  server.SetChosenMode(v1::VARIANCE_MODE_SAMPLED);
  server.FaultNextStream({1, 1, Unavailable()});
  Taker taker;
  ScoreRequest request;
  request.model = "digits";
  request.seed = 5;
  const ScoresSink take = taker.sink();
  const auto client = ConnectTo(server.address(), FastOptions());
  const absl::Status status =
      client->ScoreStream(request, Rows(9, 3), [&](int64_t first_row, Scores scores) {
        EXPECT_EQ(scores.variance_mode, VarianceMode::kSampled);
        server.SetChosenMode(v1::VARIANCE_MODE_EXACT);
        return take(first_row, std::move(scores));
      });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(taker.next_row, 9);
  ASSERT_EQ(server.Streams().size(), 2u);
  EXPECT_EQ(server.Streams()[0].start.score().variance_mode(), v1::VARIANCE_MODE_UNSPECIFIED);
  EXPECT_EQ(server.Streams()[1].start.score().variance_mode(), v1::VARIANCE_MODE_SAMPLED);
  EXPECT_EQ(server.Streams()[1].start.score().seed(), 5u);
}

TEST(ScoreStream, GoesThroughSeveralStreamsWhenOneIsOld) {
  FakeServer server;
  ClientOptions options = FastOptions();
  options.stream_timeout = absl::Milliseconds(400);
  Taker taker;
  const ScoresSink take = taker.sink();
  const auto client = ConnectTo(server.address(), options);
  const absl::Status status =
      client->ScoreStream({"digits"}, Rows(100, 5), [&](int64_t first_row, Scores scores) {
        absl::SleepFor(absl::Milliseconds(50));
        return take(first_row, std::move(scores));
      });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(taker.next_row, 100);
  EXPECT_THAT(taker.problems, ElementsAre());
  const auto streams = server.Streams();
  EXPECT_GE(streams.size(), 3u);
  // Each took over where the one before had been told to end: no row was sent twice.
  size_t batches = 0;
  for (const auto& stream : streams) batches += stream.batch_rows.size();
  EXPECT_EQ(batches, 20u);
}

TEST(ScoreStream, AStreamThatDiesOfOldAgeIsTakenUp) {
  FakeServer server;
  server.FaultNextStream({1, 1, grpc::Status::OK, /*silent=*/true});
  ClientOptions options = FastOptions();
  options.stream_timeout = absl::Milliseconds(300);
  Taker taker;
  const auto client = ConnectTo(server.address(), options);
  const absl::Status status = client->ScoreStream({"digits"}, Rows(10, 2), taker.sink());
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(taker.next_row, 10);
  EXPECT_THAT(taker.problems, ElementsAre());
}

TEST(ScoreStream, AStreamThatEndsTooEarlyIsTakenUp) {
  FakeServer server;
  server.FaultNextStream({1, 1, grpc::Status::OK});
  Taker taker;
  const auto client = ConnectTo(server.address(), FastOptions());
  EXPECT_TRUE(client->ScoreStream({"digits"}, Rows(10, 2), taker.sink()).ok());
  EXPECT_EQ(taker.next_row, 10);
}

TEST(ScoreStream, DoesNotHangOnASilentServer) {
  FakeServer server;
  server.FaultNextStream({2, 1, grpc::Status::OK, /*silent=*/true});
  ClientOptions options = FastOptions();
  options.predict_timeout = absl::Milliseconds(200);
  Taker taker;
  const absl::Time start = absl::Now();
  const auto client = ConnectTo(server.address(), options);
  const absl::Status status = client->ScoreStream({"digits"}, Rows(10, 2), taker.sink());
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("to rows 4 to 5 within 200ms"));
  EXPECT_EQ(taker.next_row, 4);
  EXPECT_LT(absl::Now() - start, absl::Seconds(30));
}

TEST(ScoreStream, DoesNotHangOnAServerThatReadsNothing) {
  FakeServer server;
  server.FaultNextStream({0, 0, grpc::Status::OK, /*silent=*/true});
  ClientOptions options = FastOptions();
  options.predict_timeout = absl::Milliseconds(300);
  Taker taker;
  const auto client = ConnectTo(server.address(), options);
  // More than any flow control window takes in.
  EXPECT_EQ(client->ScoreStream({"digits"}, Rows(4000000, 2000000), taker.sink()).code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST(ScoreStream, StopsWhenItIsTold) {
  FakeServer server;
  server.FaultNextStream({1, 1, grpc::Status::OK, /*silent=*/true});
  std::atomic<bool> stop{false};
  StreamOptions options;
  options.stop = [&stop] { return stop.load(); };
  Taker taker;
  const auto client = ConnectTo(server.address(), FastOptions());
  std::thread later([&stop] {
    absl::SleepFor(absl::Milliseconds(150));
    stop = true;
  });
  const absl::Time start = absl::Now();
  const absl::Status status = client->ScoreStream({"digits"}, Rows(10, 2), taker.sink(), options);
  later.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(std::string(status.message()), HasSubstr("the first row without an answer is 2"));
  EXPECT_LT(absl::Now() - start, absl::Seconds(30));
}

TEST(ScoreStream, StopsWhileItWaitsForTheNextAttempt) {
  FakeServer server;
  server.FaultEveryStream({0, 0, Unavailable()});
  ClientOptions slow;
  slow.retry.initial_backoff = slow.retry.max_backoff = absl::Seconds(50);
  StreamOptions options;
  options.stop = [&server] { return server.Calls("PredictStream") > 0; };
  Taker taker;
  const absl::Time start = absl::Now();
  EXPECT_EQ(ConnectTo(server.address(), slow)
                ->ScoreStream({"digits"}, Rows(4, 2), taker.sink(), options)
                .code(),
            absl::StatusCode::kCancelled);
  EXPECT_LT(absl::Now() - start, absl::Seconds(20));
}

TEST(ScoreStream, ErrorsOfTheSinkStopIt) {
  FakeServer server;
  Taker taker;
  taker.result = absl::DataLossError("disk full");
  const auto client = ConnectTo(server.address(), FastOptions());
  const absl::Status status = client->ScoreStream({"digits"}, Rows(100, 2), taker.sink());
  EXPECT_EQ(status, absl::DataLossError("disk full"));
  EXPECT_EQ(taker.answers, 1);
  EXPECT_EQ(server.Streams().size(), 1u);
}

TEST(ScoreStream, ErrorsOfTheSourceStopIt) {
  FakeServer server;
  Taker taker;
  const RowSource rows = Rows(100, 2);
  int calls = 0;
  const auto client = ConnectTo(server.address(), FastOptions());
  const absl::Status status = client->ScoreStream(
      {"digits"},
      [&]() -> absl::StatusOr<Array> {
        if (++calls == 4) return absl::InvalidArgumentError("line 7");
        return rows();
      },
      taker.sink());
  EXPECT_EQ(status, absl::InvalidArgumentError("line 7"));
  EXPECT_EQ(calls, 4);
  EXPECT_EQ(taker.next_row, 4);
  EXPECT_THAT(taker.problems, ElementsAre());
}

TEST(ScoreStream, RefusesRowsInTheRequest) {
  FakeServer server;
  Taker taker;
  ScoreRequest request;
  request.model = "digits";
  request.inputs = *Rows(1, 1)();
  const auto client = ConnectTo(server.address(), FastOptions());
  EXPECT_EQ(client->ScoreStream(request, Rows(1, 1), taker.sink()).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(client->ScoreStream({"digits"}, Rows(1, 1), taker.sink(), {-1}).code(),
            absl::StatusCode::kInvalidArgument);
}

// As behind a proxy whose server is gone.
TEST(ScoreStream, TriesAgainAfterAnEndWithoutAStatus) {
  constexpr uint8_t kCancel = 8;
  for (const absl::optional<uint8_t> code :
       {absl::optional<uint8_t>(), absl::make_optional(kCancel)}) {
    StatuslessServer server(code);
    Taker taker;
    const auto client = ConnectTo(server.address(), FastOptions());
    const absl::Status status = client->ScoreStream({"digits"}, Rows(6, 3), taker.sink());
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    // As soon as it ends, and not when patience does.
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("does not end the stream")));
    EXPECT_EQ(server.calls(), FastOptions().retry.max_attempts) << status;
  }
}

// The process behind the address goes away and comes back while rows are under way.
TEST(ScoreStream, SurvivesARestartOfTheServer) {
  auto server = std::make_unique<FakeServer>();
  const std::string address = server->address();
  ClientOptions options = FastOptions();
  options.retry.max_attempts = 200;
  Taker taker;
  const ScoresSink take = taker.sink();
  const auto client = ConnectTo(address, options);
  const absl::Status status =
      client->ScoreStream({"digits"}, Rows(60, 3), [&](int64_t first_row, Scores scores) {
        if (first_row == 30) {
          server.reset();
          server = std::make_unique<FakeServer>(address);
        }
        return take(first_row, std::move(scores));
      });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(taker.next_row, 60);
  EXPECT_THAT(taker.problems, ElementsAre());
  EXPECT_FALSE(server->Streams().empty());
}

}  // namespace
}  // namespace laplace::client
