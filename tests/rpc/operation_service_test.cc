#include "server/rpc/operation_service.h"

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/event.h"
#include "tests/support/test_server.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;
using grpc::StatusCode;
using test_support::Call;
using test_support::Event;
using test_support::TestServer;
using ::testing::HasSubstr;

using OperationStub = v1::OperationService::Stub;

absl::StatusOr<std::string> RunUntilCancelled(OperationHandle& handle) {
  while (!handle.cancelled()) std::this_thread::yield();
  return absl::CancelledError("stopped");
}

// Starts a fit and returns its operation's id.
std::string StartFit(TestServer& server) {
  v1::FitPosteriorRequest request;
  request.set_model("net");
  request.set_train_dataset_id("sha256-0");
  v1::FitPosteriorResponse response;
  const grpc::Status status =
      Call(*server.posteriors, &v1::PosteriorService::Stub::FitPosterior, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.operation().id();
}

// Reads a stream to its end.
struct Watched {
  std::vector<v1::Operation> snapshots;
  grpc::Status status;
};

Watched Watch(TestServer& server, const std::string& id, Event* first_came = nullptr) {
  Watched watched;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + test_support::kTestPatience);
  v1::WatchOperationRequest request;
  request.set_id(id);
  const auto stream = server.operations->WatchOperation(&context, request);
  v1::WatchOperationResponse response;
  while (stream->Read(&response)) {
    watched.snapshots.push_back(response.operation());
    if (first_came != nullptr) first_came->Set();
  }
  watched.status = stream->Finish();
  return watched;
}

TEST(OperationServiceTest, WatchSeesTheFinalStateOfARunningOne) {
  TestServer server;
  Event go;
  server.fits->SetWork([&](OperationHandle& handle) -> absl::StatusOr<std::string> {
    EXPECT_TRUE(go.Wait());
    for (int i = 1; i <= 200; ++i) handle.Report("curvature", i, 200, i / 200.0);
    return std::string("p-2");
  });
  const std::string id = StartFit(server);
  Event first;
  std::thread release([&] {
    EXPECT_TRUE(first.Wait());
    go.Set();
  });
  const Watched watched = Watch(server, id, &first);
  release.join();
  EXPECT_TRUE(watched.status.ok()) << watched.status.error_message();
  EXPECT_EQ(watched.snapshots.front().state(), v1::OPERATION_STATE_RUNNING);
  double fraction = 0;
  for (const v1::Operation& snapshot : watched.snapshots) {
    EXPECT_GE(snapshot.fraction(), fraction);
    fraction = snapshot.fraction();
  }
  const v1::Operation& last = watched.snapshots.back();
  EXPECT_EQ(last.state(), v1::OPERATION_STATE_SUCCEEDED);
  EXPECT_EQ(last.posterior_id(), "p-2");
  EXPECT_EQ(last.fraction(), 1);
  EXPECT_EQ(last.phase(), "curvature");
  EXPECT_NE(last.end_time(), "");
}

TEST(OperationServiceTest, WatchOfAFinishedOneSendsItsStateAndEnds) {
  TestServer server;
  const std::string id = StartFit(server);
  EXPECT_EQ(Watch(server, id).snapshots.back().state(), v1::OPERATION_STATE_SUCCEEDED);
  const Watched again = Watch(server, id);
  EXPECT_TRUE(again.status.ok());
  ASSERT_EQ(again.snapshots.size(), 1u);
  EXPECT_EQ(again.snapshots[0].state(), v1::OPERATION_STATE_SUCCEEDED);
}

TEST(OperationServiceTest, WatchSeesTheEndOfOnesThatEndWhileItSubscribes) {
  TestServer server;
  for (int i = 0; i < 50; ++i) {
    const Watched watched = Watch(server, StartFit(server));
    ASSERT_TRUE(watched.status.ok());
    ASSERT_EQ(watched.snapshots.back().state(), v1::OPERATION_STATE_SUCCEEDED);
  }
}

TEST(OperationServiceTest, WatcherThatVanishesLeavesNothingBehind) {
  TestServer server;
  server.fits->SetWork([](OperationHandle& handle) -> absl::StatusOr<std::string> {
    while (!handle.cancelled()) handle.Report("directions", 1, 2, 0.5);
    return absl::CancelledError("stopped");
  });
  const std::string id = StartFit(server);
  v1::WatchOperationRequest request;
  request.set_id(id);
  for (int i = 0; i < 20; ++i) {
    grpc::ClientContext context;
    const auto stream = server.operations->WatchOperation(&context, request);
    v1::WatchOperationResponse response;
    if (i % 2 == 0) {
      EXPECT_TRUE(stream->Read(&response));
    }
    context.TryCancel();
    EXPECT_EQ(stream->Finish().error_code(), StatusCode::CANCELLED);
  }
  v1::CancelOperationRequest cancel;
  cancel.set_id(id);
  v1::CancelOperationResponse response;
  EXPECT_TRUE(Call(*server.operations, &OperationStub::CancelOperation, cancel, &response).ok());
  EXPECT_EQ(Watch(server, id).snapshots.back().state(), v1::OPERATION_STATE_CANCELLED);
}

// gRPC ends the process if a call is finished twice.
TEST(OperationServiceTest, ARefusedWatchThatIsCancelledAtOnceEndsOnce) {
  TestServer server;
  v1::WatchOperationRequest request;
  request.set_id("op-x");
  std::vector<std::thread> callers;
  for (int t = 0; t < 8; ++t) {
    callers.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) {
        grpc::ClientContext context;
        const auto stream = server.operations->WatchOperation(&context, request);
        context.TryCancel();
        EXPECT_FALSE(stream->Finish().ok());
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(Watch(server, "op-x").status.error_code(), StatusCode::NOT_FOUND);
}

TEST(OperationServiceTest, ManyWatchersOfOneOperationAllSeeItsEnd) {
  TestServer server;
  server.fits->SetWork(RunUntilCancelled);
  const std::string id = StartFit(server);
  std::vector<std::thread> watchers;
  std::vector<Event> first(4);
  for (Event& event : first) {
    watchers.emplace_back([&server, &id, &event] {
      const Watched watched = Watch(server, id, &event);
      EXPECT_TRUE(watched.status.ok());
      EXPECT_EQ(watched.snapshots.back().state(), v1::OPERATION_STATE_CANCELLED);
    });
  }
  for (Event& event : first) EXPECT_TRUE(event.Wait());
  v1::CancelOperationRequest cancel;
  cancel.set_id(id);
  v1::CancelOperationResponse response;
  EXPECT_TRUE(Call(*server.operations, &OperationStub::CancelOperation, cancel, &response).ok());
  for (std::thread& watcher : watchers) watcher.join();
}

TEST(OperationServiceTest, FailureShowsCodeAndMessage) {
  TestServer server;
  server.fits->SetWork([](OperationHandle&) -> absl::StatusOr<std::string> {
    return absl::UnknownError("the disk said nothing");
  });
  const v1::Operation end = Watch(server, StartFit(server)).snapshots.back();
  EXPECT_EQ(end.state(), v1::OPERATION_STATE_FAILED);
  EXPECT_EQ(end.error_code(), static_cast<int>(StatusCode::INTERNAL)) << "UNKNOWN never leaves";
  EXPECT_EQ(end.error_message(), "the disk said nothing");
}

TEST(OperationServiceTest, GetAndListShowOperationsNewestFirst) {
  TestServer server;
  const std::string first = StartFit(server);
  Watch(server, first);
  const std::string second = StartFit(server);
  Watch(server, second);
  v1::GetOperationRequest get;
  get.set_id(first);
  v1::GetOperationResponse got;
  ASSERT_TRUE(Call(*server.operations, &OperationStub::GetOperation, get, &got).ok());
  EXPECT_EQ(got.operation().description(), "fit net/1");
  v1::ListOperationsResponse list;
  ASSERT_TRUE(
      Call(*server.operations, &OperationStub::ListOperations, v1::ListOperationsRequest(), &list)
          .ok());
  ASSERT_EQ(list.operations_size(), 2);
  EXPECT_EQ(list.operations(0).id(), second);
  EXPECT_EQ(list.operations(1).id(), first);
}

TEST(OperationServiceTest, AFitThatNobodyWaitsForAnyMoreDoesNotStart) {
  TestServer server;
  Event reading, go;
  server.fits->SetPrepare([&] {
    reading.Set();
    EXPECT_TRUE(go.Wait());
  });
  v1::FitPosteriorRequest request;
  request.set_model("net");
  request.set_train_dataset_id("sha256-0");
  v1::FitPosteriorResponse response;
  grpc::ClientContext context;
  std::thread impatient([&] {
    EXPECT_TRUE(reading.Wait());
    context.TryCancel();
  });
  const grpc::Status status = server.posteriors->FitPosterior(&context, request, &response);
  EXPECT_EQ(status.error_code(), StatusCode::CANCELLED);
  impatient.join();
  // The next call waits for its turn behind the one that nobody wants.
  std::thread late([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    go.Set();
  });
  v1::ListPosteriorsRequest list;
  list.set_model("net");
  v1::ListPosteriorsResponse listed;
  EXPECT_TRUE(
      Call(*server.posteriors, &v1::PosteriorService::Stub::ListPosteriors, list, &listed).ok());
  late.join();
  v1::ListOperationsResponse operations;
  EXPECT_TRUE(Call(*server.operations, &v1::OperationService::Stub::ListOperations,
                   v1::ListOperationsRequest(), &operations)
                  .ok());
  EXPECT_EQ(operations.operations_size(), 0);
}

TEST(OperationServiceTest, FitBeyondTheLimitIsRefusedWithATimeToRetry) {
  TestServer server;
  server.fits->SetWork(RunUntilCancelled);
  StartFit(server);
  v1::FitPosteriorRequest request;
  request.set_model("net");
  request.set_train_dataset_id("sha256-0");
  v1::FitPosteriorResponse response;
  const grpc::Status refused =
      Call(*server.posteriors, &v1::PosteriorService::Stub::FitPosterior, request, &response);
  EXPECT_EQ(refused.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(), HasSubstr("max_concurrent_fits"));
  EXPECT_GE(test_support::DetailOf<google::rpc::RetryInfo>(refused).retry_delay().seconds(), 1);
}

}  // namespace
}  // namespace laplaced
