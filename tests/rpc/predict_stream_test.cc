#include <atomic>
#include <chrono>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/client_call.h"
#include "tests/support/test_server.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;
using grpc::StatusCode;
using test_support::BadFieldOf;
using test_support::Call;
using test_support::ComputeGate;
using test_support::DetailOf;
using test_support::Event;
using test_support::GoodPredictRequest;
using test_support::kTestPatience;
using test_support::MakeTensor;
using test_support::PredictCall;
using test_support::TestServer;
using test_support::WaitForQueue;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::Le;

using Request = v1::PredictStreamRequest;

Request PredictStart() {
  Request request;
  request.mutable_start()->mutable_predict()->set_model("net");
  return request;
}

Request ScoreStart() {
  Request request;
  request.mutable_start()->mutable_score()->set_model("net");
  return request;
}

// `rows` examples, each with `mark` as its first input, which the fake gives back as the mean.
Request Batch(float mark, int64_t rows = 1) {
  Request request;
  *request.mutable_inputs() =
      MakeTensor({rows, 2}, std::vector<float>(static_cast<size_t>(2 * rows), mark));
  return request;
}

Request Changed(Request request, const std::function<void(Request&)>& change) {
  change(request);
  return request;
}

// A stream as a client has it; ends with the test.
class Stream {
 public:
  explicit Stream(TestServer& server, std::chrono::milliseconds timeout = kTestPatience) {
    context_.set_deadline(std::chrono::system_clock::now() + timeout);
    stream_ = server.predictions->PredictStream(&context_);
  }
  ~Stream() {
    if (!finished_) context_.TryCancel();
    if (!finished_) Finish();
  }

  bool Send(const Request& request) { return stream_->Write(request); }
  void HalfClose() { stream_->WritesDone(); }
  // False at the end of the stream.
  bool Read(v1::PredictStreamResponse* response) { return stream_->Read(response); }
  // First rows of all answers that are left.
  std::vector<int64_t> ReadRest() {
    std::vector<int64_t> rows;
    for (v1::PredictStreamResponse response; Read(&response);) rows.push_back(response.first_row());
    return rows;
  }
  void Cancel() { context_.TryCancel(); }
  grpc::Status Finish() {
    finished_ = true;
    v1::PredictStreamResponse rest;
    while (Read(&rest)) {
    }
    return stream_->Finish();
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<Request, v1::PredictStreamResponse>> stream_;
  bool finished_ = false;
};

TEST(PredictStreamTest, AnswersEveryBatchOnceAndInOrder) {
  TestServer server;
  Stream stream(server);
  constexpr int kBatches = 300;
  std::thread writer([&] {
    EXPECT_TRUE(stream.Send(Changed(PredictStart(), [](Request& r) {
      r.mutable_start()->set_first_row(1000);
      r.mutable_start()->mutable_predict()->set_prior_precision(7);
    })));
    for (int i = 0; i < kBatches; ++i) {
      EXPECT_TRUE(stream.Send(Batch(static_cast<float>(i), 1 + i % 3)));
    }
    stream.HalfClose();
  });
  int64_t row = 1000;
  for (int i = 0; i < kBatches; ++i) {
    v1::PredictStreamResponse response;
    ASSERT_TRUE(stream.Read(&response)) << i;
    EXPECT_EQ(response.first_row(), row);
    EXPECT_THAT(response.predict().mean().shape(), ElementsAre(1 + i % 3, 3));
    EXPECT_THAT(response.predict().mean().float32_values(), Each(static_cast<float>(i)));
    EXPECT_EQ(response.predict().prior_precision(), 7);
    EXPECT_EQ(response.predict().model(), "net");
    EXPECT_EQ(response.predict().posterior_id(), "p-1");
    row += 1 + i % 3;
  }
  writer.join();
  EXPECT_THAT(stream.ReadRest(), ElementsAre());
  const grpc::Status status = stream.Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST(PredictStreamTest, ScoresHaveVerdicts) {
  TestServer server;
  Stream stream(server);
  ASSERT_TRUE(stream.Send(
      Changed(ScoreStart(), [](Request& r) { r.mutable_start()->set_posterior_id("p-1"); })));
  ASSERT_TRUE(stream.Send(Batch(1, 2)));
  stream.HalfClose();
  v1::PredictStreamResponse response;
  ASSERT_TRUE(stream.Read(&response));
  ASSERT_EQ(response.score().ood_scores_size(), 1);
  EXPECT_EQ(response.score().ood_scores(0).name(), "energy");
  EXPECT_THAT(response.score().ood_scores(0).is_ood(), ElementsAre(false, true));
  EXPECT_EQ(response.score().model(), "net");
  EXPECT_TRUE(stream.Finish().ok());
}

TEST(PredictStreamTest, StartWithoutRowsEndsWell) {
  TestServer server;
  Stream stream(server);
  ASSERT_TRUE(stream.Send(ScoreStart()));
  stream.HalfClose();
  EXPECT_THAT(stream.ReadRest(), ElementsAre());
  EXPECT_TRUE(stream.Finish().ok());
}

TEST(PredictStreamTest, ClientThatDoesNotReadStopsTheServer) {
  v1::ServerConfig config;
  config.set_max_batch_size(100000);
  TestServer server(config);
  std::atomic<int> computed{0};
  server.host->SetComputeHook([&](const ComputeContext&) {
    ++computed;
    return absl::OkStatus();
  });
  Stream stream(server, 10 * kTestPatience);  // 200 MB take their time under a sanitizer
  // Answers of a megabyte, so that a few fill what the connection holds. They are computed in parts
  // of 64 rows.
  constexpr int kBatches = 200, kRows = 20000, kParts = (kRows + 63) / 64;
  const Request batch = Batch(1, kRows);
  std::atomic<int> sent{0};
  std::thread writer([&] {
    EXPECT_TRUE(stream.Send(PredictStart()));
    for (int i = 0; i < kBatches; ++i) {
      EXPECT_TRUE(stream.Send(batch));
      ++sent;
    }
    stream.HalfClose();
  });
  // Long enough for a server that does not stop to compute everything.
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  while (std::chrono::steady_clock::now() < until || computed == 0) std::this_thread::yield();
  EXPECT_THAT(computed.load(), AllOf(Ge(1), Le(20 * kParts)));
  // What the connection itself holds is several megabytes.
  EXPECT_LE(sent, 150) << "the server reads ahead of what it computes";
  EXPECT_EQ(stream.ReadRest().size(), static_cast<size_t>(kBatches));
  writer.join();
  EXPECT_TRUE(stream.Finish().ok());
  EXPECT_EQ(computed, kBatches * kParts);
}

TEST(PredictStreamTest, OthersComeInBetweenTheBatches) {
  TestServer server;
  ComputeGate gate(server);
  Stream stream(server);
  ASSERT_TRUE(stream.Send(PredictStart()));
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(stream.Send(Batch(1)));
  ASSERT_TRUE(gate.WaitUntilEntered());
  PredictCall interactive(server);
  // It alone waits: the stream's second batch is not in the queue before the first is answered.
  ASSERT_TRUE(WaitForQueue(server, 1));
  gate.Open();
  EXPECT_TRUE(interactive.Wait().ok());
  stream.HalfClose();
  EXPECT_THAT(stream.ReadRest(), ElementsAre(0, 1, 2));
  EXPECT_TRUE(stream.Finish().ok());
}

TEST(PredictStreamTest, ModeOfTheFirstBatchIsKept) {
  // AUTO of the fake is EXACT for up to two examples and SAMPLED beyond.
  TestServer server;
  for (const auto& [first, mode, samples] :
       {std::tuple(1, v1::VARIANCE_MODE_EXACT, 0), std::tuple(5, v1::VARIANCE_MODE_SAMPLED, 64)}) {
    for (const bool predict : {true, false}) {
      Stream stream(server);
      ASSERT_TRUE(stream.Send(predict ? PredictStart() : Changed(ScoreStart(), [](Request& r) {
        r.mutable_start()->mutable_score()->add_ood_scores("variance");
      })));
      for (const int64_t rows : {first, 1, 5}) ASSERT_TRUE(stream.Send(Batch(1, rows)));
      stream.HalfClose();
      for (int i = 0; i < 3; ++i) {
        v1::PredictStreamResponse response;
        ASSERT_TRUE(stream.Read(&response));
        EXPECT_EQ(predict ? response.predict().variance_mode() : response.score().variance_mode(),
                  mode);
        EXPECT_EQ(predict ? response.predict().samples() : response.score().samples(), samples);
      }
    }
  }
}

TEST(PredictStreamTest, AnswersWithoutVarianceFixNoMode) {
  TestServer server;
  Stream stream(server);
  ASSERT_TRUE(stream.Send(ScoreStart()));
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(stream.Send(Batch(1, 5)));
  stream.HalfClose();
  for (int i = 0; i < 2; ++i) {
    v1::PredictStreamResponse response;
    ASSERT_TRUE(stream.Read(&response));
    EXPECT_EQ(response.score().variance_mode(), v1::VARIANCE_MODE_UNSPECIFIED);
  }
  EXPECT_TRUE(stream.Finish().ok());
}

TEST(PredictStreamTest, KeepsThePosteriorItStartedWith) {
  TestServer server;
  Stream stream(server);
  ASSERT_TRUE(stream.Send(ScoreStart()));
  ASSERT_TRUE(stream.Send(Batch(1)));
  v1::PredictStreamResponse response;
  ASSERT_TRUE(stream.Read(&response));
  v1::ActivatePosteriorRequest activate;
  activate.set_model("net");
  activate.set_posterior_id("p-2");
  v1::ActivatePosteriorResponse activated;
  ASSERT_TRUE(
      Call(*server.posteriors, &v1::PosteriorService::Stub::ActivatePosterior, activate, &activated)
          .ok());
  ASSERT_TRUE(stream.Send(Batch(1)));
  stream.HalfClose();
  ASSERT_TRUE(stream.Read(&response));
  EXPECT_EQ(response.score().posterior_id(), "p-1");
  EXPECT_TRUE(stream.Finish().ok());

  // Whoever goes on by name is told that it is no longer the active one.
  Stream resumed(server);
  ASSERT_TRUE(resumed.Send(
      Changed(ScoreStart(), [](Request& r) { r.mutable_start()->set_posterior_id("p-1"); })));
  const grpc::Status status = resumed.Finish();
  EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), AllOf(HasSubstr("'p-1'"), HasSubstr("'p-2'")));
}

struct BadStream {
  std::string name;
  std::vector<Request> messages;
  StatusCode code;
  std::string field;
  std::vector<std::string> fragments;
  size_t answers = 0;
};

std::vector<BadStream> BadStarts() {
  const auto kInvalid = StatusCode::INVALID_ARGUMENT;
  const auto start = [](auto change) {
    return Changed(PredictStart(), [&](Request& r) { change(*r.mutable_start()); });
  };
  using S = v1::PredictStreamStart;
  return {
      {"Nothing", {}, kInvalid, "start", {"first message", "empty stream"}},
      {"InputsFirst", {Batch(1)}, kInvalid, "start", {"first message", "got inputs"}},
      {"EmptyMessageFirst", {Request()}, kInvalid, "start", {"first message", "an empty one"}},
      {"NoWork",
       {start([](S& s) { s.clear_work(); })},
       kInvalid,
       "start.work",
       {"predict or score"}},
      {"PredictInputs",
       {start([](S& s) {
         *s.mutable_predict()->mutable_inputs() = MakeTensor({1, 2}, {1, 2});
       })},
       kInvalid,
       "start.predict.inputs",
       {"expected nothing", "got a tensor"}},
      {"ScoreInputs",
       {Changed(ScoreStart(),
                [](Request& r) { r.mutable_start()->mutable_score()->mutable_inputs(); })},
       kInvalid,
       "start.score.inputs",
       {"expected nothing"}},
      {"NoModel",
       {start([](S& s) { s.mutable_predict()->clear_model(); })},
       kInvalid,
       "start.predict.model",
       {"name of a model"}},
      {"NegativeVersion",
       {Changed(ScoreStart(),
                [](Request& r) { r.mutable_start()->mutable_score()->set_version(-1); })},
       kInvalid,
       "start.score.version",
       {"got -1"}},
      {"NegativeRow",
       {start([](S& s) { s.set_first_row(-5); })},
       kInvalid,
       "start.first_row",
       {"got -5"}},
      {"RowBeyondCounting",
       {start([](S& s) { s.set_first_row(std::numeric_limits<int64_t>::max()); })},
       kInvalid,
       "start.first_row",
       {"got 9223372036854775807"}},
      {"BadOption",
       {start([](S& s) { s.mutable_predict()->set_prior_precision(0); })},
       kInvalid,
       "start.predict.prior_precision",
       {"above 0"}},
      {"UnknownMode",
       {Changed(ScoreStart(),
                [](Request& r) {
                  r.mutable_start()->mutable_score()->set_variance_mode(
                      static_cast<v1::VarianceMode>(77));
                })},
       kInvalid,
       "start.score.variance_mode",
       {"77"}},
      {"LongPosteriorId",
       {start([](S& s) { s.set_posterior_id(std::string(129, 'p')); })},
       kInvalid,
       "start.posterior_id",
       {"at most 128"}},
      {"OtherPosterior",
       {start([](S& s) { s.set_posterior_id("p-9"); })},
       StatusCode::FAILED_PRECONDITION,
       "",
       {"'p-9'", "'p-1'"}},
      {"NoPosteriorToCompare",
       {start([](S& s) {
         s.mutable_predict()->set_model("bare");
         s.set_posterior_id("p-9");
       })},
       StatusCode::FAILED_PRECONDITION,
       "",
       {"'p-9'", "none"}},
      {"UnknownModel",
       {start([](S& s) { s.mutable_predict()->set_model("nosuch"); })},
       StatusCode::NOT_FOUND,
       "",
       {"nosuch"}},
  };
}

std::vector<BadStream> BadBatches() {
  const auto kInvalid = StatusCode::INVALID_ARGUMENT;
  const auto start =
      Changed(PredictStart(), [](Request& r) { r.mutable_start()->set_first_row(10); });
  return {
      {"SecondStart",
       {start, Batch(1), ScoreStart()},
       kInvalid,
       "start",
       {"only in the first message", "after 1 batch"},
       1},
      {"EmptyMessage", {start, Batch(1, 2), Request()}, kInvalid, "part", {"after 1 batch"}, 1},
      {"WrongWidth",
       {start, Batch(1, 3), Batch(1),
        Changed(Batch(1),
                [](Request& r) {
                  *r.mutable_inputs() = MakeTensor({1, 3}, {1, 2, 3});
                })},
       kInvalid,
       "inputs.shape",
       {"[1, 3]", "begins with row 14"},
       2},
      {"NotFinite",
       {start,
        Changed(Batch(1), [](Request& r) { r.mutable_inputs()->set_float32_values(1, NAN); })},
       kInvalid,
       "inputs",
       {"finite", "begins with row 10"}},
      {"NoType",
       {start, Changed(Batch(1), [](Request& r) { r.mutable_inputs()->clear_dtype(); })},
       kInvalid,
       "inputs.dtype",
       {"begins with row 10"}},
      {"TooManyExamples",
       {start, Batch(1), Batch(1, 1025)},
       kInvalid,
       "inputs.shape[0]",
       {"at most 1024", "begins with row 11"},
       1},
      {"UnknownScore",
       {Changed(ScoreStart(),
                [](Request& r) { r.mutable_start()->mutable_score()->add_ood_scores("nosuch"); }),
        Batch(1)},
       kInvalid,
       "start.score.ood_scores",
       {"'nosuch'", "begins with row 0"}},
      {"AnswerTooLarge",
       {Changed(start,
                [](Request& r) {
                  r.mutable_start()->mutable_predict()->set_return_joint_covariance(true);
                }),
        Batch(1, 2), Batch(1, 1000)},
       kInvalid,
       "start.predict.return_joint_covariance",
       {"fewer examples", "begins with row 12"},
       1},
      {"NoPosterior",
       {Changed(start, [](Request& r) { r.mutable_start()->mutable_predict()->set_model("bare"); }),
        Batch(1)},
       StatusCode::FAILED_PRECONDITION,
       "",
       {"no active posterior"}},
  };
}

TEST(PredictStreamTest, BadMessagesEndTheStreamAfterTheAnswersBeforeThem) {
  TestServer server;
  for (const auto& streams : {BadStarts(), BadBatches()}) {
    for (const BadStream& bad : streams) {
      SCOPED_TRACE(bad.name);
      Stream stream(server);
      for (const Request& message : bad.messages) stream.Send(message);
      // Otherwise only the server can end the stream.
      if (bad.messages.empty()) stream.HalfClose();
      EXPECT_EQ(stream.ReadRest().size(), bad.answers);
      const grpc::Status status = stream.Finish();
      EXPECT_EQ(status.error_code(), bad.code) << status.error_message();
      EXPECT_EQ(BadFieldOf(status), bad.field) << status.error_message();
      for (const std::string& fragment : bad.fragments) {
        EXPECT_THAT(status.error_message(), HasSubstr(fragment));
      }
    }
  }
  Stream good(server);
  ASSERT_TRUE(good.Send(PredictStart()));
  ASSERT_TRUE(good.Send(Batch(1)));
  good.HalfClose();
  EXPECT_THAT(good.ReadRest(), ElementsAre(0));
}

TEST(PredictStreamTest, MessageThatIsTooLargeIsNoGoodEnd) {
  v1::ServerConfig config;
  config.set_max_message_bytes(4096);
  TestServer server(config);
  Stream stream(server);
  ASSERT_TRUE(stream.Send(PredictStart()));
  ASSERT_TRUE(stream.Send(Batch(1)));
  stream.Send(Batch(1, 1000));
  EXPECT_THAT(stream.ReadRest().size(), Le(1u));
  EXPECT_EQ(stream.Finish().error_code(), StatusCode::RESOURCE_EXHAUSTED);
}

TEST(PredictStreamTest, ErrorOfAComputationKeepsTheAnswersBeforeIt) {
  for (const bool throws : {false, true}) {
    std::atomic<int> computed{0};
    TestServer server;  // gone, with its threads, before what they use
    server.host->SetComputeHook([&](const ComputeContext&) -> absl::Status {
      if (++computed < 3) return absl::OkStatus();
      if (throws) throw std::runtime_error("secret");
      return absl::InternalError("secret");
    });
    Stream stream(server);
    ASSERT_TRUE(stream.Send(PredictStart()));
    for (int i = 0; i < 5; ++i) stream.Send(Batch(1));
    EXPECT_THAT(stream.ReadRest(), ElementsAre(0, 1));
    const grpc::Status status = stream.Finish();
    EXPECT_EQ(status.error_code(), StatusCode::INTERNAL);
    EXPECT_THAT(status.error_message(), testing::Not(HasSubstr("secret")));
    EXPECT_EQ(computed, 3);
  }
}

TEST(PredictStreamTest, FullQueueEndsTheStreamWithATimeToRetry) {
  v1::ServerConfig config;
  config.set_max_queue(1);
  TestServer server(config);
  Stream stream(server);
  ASSERT_TRUE(stream.Send(PredictStart()));
  ASSERT_TRUE(stream.Send(Batch(1)));
  v1::PredictStreamResponse response;
  ASSERT_TRUE(stream.Read(&response));
  ComputeGate gate(server);
  PredictCall running(server);
  ASSERT_TRUE(gate.WaitUntilEntered());
  PredictCall waiting(server);
  ASSERT_TRUE(WaitForQueue(server, 1));
  ASSERT_TRUE(stream.Send(Batch(1)));
  const grpc::Status status = stream.Finish();
  EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  const auto delay = DetailOf<google::rpc::RetryInfo>(status).retry_delay();
  EXPECT_GT(delay.seconds() + delay.nanos(), 0);
  gate.Open();
  EXPECT_TRUE(running.Wait().ok());
  EXPECT_TRUE(waiting.Wait().ok());
}

TEST(PredictStreamTest, CancellationReachesTheComputationAndDropsTheRest) {
  TestServer server;
  Event entered;
  Event seen;
  std::atomic<int> computed{0};
  server.host->SetComputeHook([&](const ComputeContext& context) -> absl::Status {
    ++computed;
    entered.Set();
    while (context.Check().ok()) std::this_thread::yield();
    seen.Set();
    return context.Check();
  });
  Stream stream(server);
  ASSERT_TRUE(stream.Send(PredictStart()));
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(stream.Send(Batch(1)));
  ASSERT_TRUE(entered.Wait());
  stream.Cancel();
  EXPECT_EQ(stream.Finish().error_code(), StatusCode::CANCELLED);
  EXPECT_TRUE(seen.Wait());
  // Stop waits for every call, so whatever the stream does it has done now.
  server.server->Stop();
  EXPECT_EQ(computed, 1);
}

TEST(PredictStreamTest, BatchWhoseDeadlinePassesInTheQueueIsNotComputed) {
  TestServer server;
  ComputeGate gate(server);
  PredictCall running(server);
  ASSERT_TRUE(gate.WaitUntilEntered());
  Stream stream(server, std::chrono::milliseconds(50));
  stream.Send(PredictStart());
  stream.Send(Batch(1));
  EXPECT_EQ(stream.Finish().error_code(), StatusCode::DEADLINE_EXCEEDED);
  // By now the deadline has passed at the server too, which hears of it a little late.
  const auto passed = std::chrono::steady_clock::now() + std::chrono::milliseconds(200);
  while (std::chrono::steady_clock::now() < passed) std::this_thread::yield();
  gate.Open();
  EXPECT_TRUE(running.Wait().ok());
  server.server->Stop();
  EXPECT_EQ(gate.started(), 1);
}

TEST(PredictStreamTest, DeadlineEndsAStreamThatComputesAndOneThatWaits) {
  TestServer server;
  Stream idle(server, std::chrono::milliseconds(50));
  ASSERT_TRUE(idle.Send(PredictStart()));
  EXPECT_EQ(idle.Finish().error_code(), StatusCode::DEADLINE_EXCEEDED);

  Event seen;
  server.host->SetComputeHook([&](const ComputeContext& context) -> absl::Status {
    while (context.Check().ok()) std::this_thread::yield();
    seen.Set();
    return context.Check();
  });
  Stream busy(server, std::chrono::milliseconds(200));
  busy.Send(PredictStart());
  busy.Send(Batch(1));
  EXPECT_EQ(busy.Finish().error_code(), StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(seen.Wait());
}

TEST(PredictStreamTest, ClientsThatVanishAtEveryMomentDoNoHarm) {
  TestServer server;
  std::vector<std::thread> clients;
  for (int t = 0; t < 4; ++t) {
    clients.emplace_back([&server, t] {
      for (int i = 0; i < 40; ++i) {
        Stream stream(server, std::chrono::milliseconds(1 + (i + t) % 5));
        stream.Send(i % 7 == 0 ? Batch(1) : PredictStart());
        for (int k = 0; k < i % 5; ++k) stream.Send(Batch(1));
        if (i % 3 == 0) stream.HalfClose();
        if (i % 2 == 0) stream.Cancel();
        stream.Finish();
      }
    });
  }
  for (std::thread& client : clients) client.join();
  Stream good(server);
  ASSERT_TRUE(good.Send(PredictStart()));
  ASSERT_TRUE(good.Send(Batch(1)));
  good.HalfClose();
  EXPECT_THAT(good.ReadRest(), ElementsAre(0));
  EXPECT_TRUE(good.Finish().ok());
}

TEST(PredictStreamTest, ConcurrentStreamsGetTheirOwnAnswers) {
  TestServer server;
  std::vector<std::thread> clients;
  for (int t = 0; t < 4; ++t) {
    clients.emplace_back([&server, t] {
      Stream stream(server);
      ASSERT_TRUE(stream.Send(PredictStart()));
      for (int i = 0; i < 50; ++i) {
        const float mark = static_cast<float>(1000 * t + i);
        ASSERT_TRUE(stream.Send(Batch(mark)));
        v1::PredictStreamResponse response;
        ASSERT_TRUE(stream.Read(&response));
        ASSERT_EQ(response.first_row(), i);
        ASSERT_EQ(response.predict().mean().float32_values(0), mark);
      }
      stream.HalfClose();
      EXPECT_TRUE(stream.Finish().ok());
    });
  }
  for (std::thread& client : clients) client.join();
}

}  // namespace
}  // namespace laplaced
