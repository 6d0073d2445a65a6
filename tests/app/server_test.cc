#include "server/app/server.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/client_call.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_server.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;
using grpc::StatusCode;
using test_support::Call;
using test_support::ComputeGate;
using test_support::Event;
using test_support::FakeFitService;
using test_support::FakeModelHost;
using test_support::GoodPredictRequest;
using test_support::IsOk;
using test_support::PredictCall;
using test_support::StatusIs;
using test_support::TempFolder;
using test_support::TestServer;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// grpc.health.v1 by hand, because its messages are not part of the API: a request is {string
// service = 1}, a response {enum status = 1} with 1 for SERVING and 2 for NOT_SERVING.
struct Health {
  StatusCode code;
  int status;
};

Health CheckHealth(const std::shared_ptr<grpc::Channel>& channel, const std::string& service) {
  std::string bytes;
  if (!service.empty()) bytes = std::string("\x0a") + static_cast<char>(service.size()) + service;
  const grpc::Slice slice(bytes);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  grpc::GenericStub stub(channel);
  const auto call =
      stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
  call->StartCall();
  grpc::Status status;
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) {
  }
  if (!status.ok()) return {status.error_code(), 0};
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(response.Dump(&slices).ok());
  std::string answer;
  for (const grpc::Slice& part : slices) {
    answer.append(reinterpret_cast<const char*>(part.begin()), part.size());
  }
  return {StatusCode::OK, answer.size() == 2 ? answer[1] : 0};
}

v1::ServerConfig ConfigFor(const std::string& registry) {
  v1::ServerConfig config = DefaultConfig();
  config.set_registry(registry);
  config.set_listen("127.0.0.1:0");
  config.set_load("none");
  return config;
}

// A backend whose host records which models were loaded.
ServerBackend BackendThatLoads(std::vector<std::string>* loaded, const std::string& broken = "") {
  ServerBackend backend;
  backend.make_model_host = [=](const Repository&, const ModelHostOptions& options) {
    auto host = std::make_unique<FakeModelHost>(options);
    host->Add("a", 1, "p-1");
    host->Add("a", 2, "p-1");
    host->Add("b", 1, "");
    host->SetLoadHook([=](const std::string& name) -> absl::Status {
      loaded->push_back(name);
      if (name == broken) return absl::FailedPreconditionError("damaged");
      return absl::OkStatus();
    });
    return host;
  };
  backend.make_fit_service = [](const Repository&, const DatasetStore&, ModelHost& host,
                                Operations& operations) {
    return std::make_unique<FakeFitService>(host, operations);
  };
  return backend;
}

void AddModelFolders(const std::string& registry) {
  for (const char* folder : {"/models/a/1", "/models/a/2", "/models/b/1"}) {
    std::filesystem::create_directories(registry + folder);
  }
}

TEST(ServerTest, SaysWhereItListensAndThatItServes) {
  TestServer server;
  EXPECT_THAT(server.server->address(), HasSubstr("127.0.0.1:"));
  for (const char* service : {"", "laplace.v1.PredictionService"}) {
    EXPECT_EQ(CheckHealth(server.channel, service).status, 1) << service;
  }
  EXPECT_EQ(CheckHealth(server.channel, "nosuch").code, StatusCode::NOT_FOUND);
}

TEST(ServerTest, ListensOnAUnixSocket) {
  TempFolder folder;
  v1::ServerConfig config;
  config.set_listen("unix:" + folder.File("s"));
  TestServer server(config);
  v1::PredictResponse response;
  EXPECT_TRUE(Call(*server.predictions, &v1::PredictionService::Stub::Predict, GoodPredictRequest(),
                   &response)
                  .ok());
}

TEST(ServerTest, TakenPortIsAClearError) {
  TestServer first;
  TempFolder registry;
  v1::ServerConfig config = ConfigFor(registry.path());
  config.set_listen(first.server->address());
  std::vector<std::string> loaded;
  EXPECT_THAT(Server::Start(config, BackendThatLoads(&loaded)),
              StatusIs(absl::StatusCode::kUnavailable,
                       AllOf(HasSubstr(first.server->address()), HasSubstr("taken"))));
}

TEST(ServerTest, RegistryThatCannotBeMadeIsAnError) {
  TempFolder folder;
  const std::string file = folder.Write("file", "");
  std::vector<std::string> loaded;
  const auto started = Server::Start(ConfigFor(file + "/registry"), BackendThatLoads(&loaded));
  ASSERT_FALSE(started.ok());
  EXPECT_THAT(std::string(started.status().message()), HasSubstr("file"));
}

TEST(ServerTest, LoadsTheHighestVersionOfEveryModel) {
  TempFolder registry;
  AddModelFolders(registry.path());
  v1::ServerConfig config = ConfigFor(registry.path());
  config.set_load("all");
  std::vector<std::string> loaded;
  EXPECT_THAT(Server::Start(config, BackendThatLoads(&loaded)), IsOk());
  EXPECT_THAT(loaded, ElementsAre("a", "b"));
}

TEST(ServerTest, DamagedModelDoesNotStopTheOthers) {
  TempFolder registry;
  AddModelFolders(registry.path());
  v1::ServerConfig config = ConfigFor(registry.path());
  config.set_load("a/1,b");
  std::vector<std::string> loaded;
  EXPECT_THAT(Server::Start(config, BackendThatLoads(&loaded, "a")), IsOk());
  EXPECT_THAT(loaded, ElementsAre("a", "b"));
}

TEST(ServerTest, UnknownListedModelIsAnErrorBeforeAnythingIsLoaded) {
  TempFolder registry;
  AddModelFolders(registry.path());
  std::vector<std::string> loaded;
  for (const char* load : {"a,c", "a,b/9"}) {
    v1::ServerConfig config = ConfigFor(registry.path());
    config.set_load(load);
    EXPECT_THAT(Server::Start(config, BackendThatLoads(&loaded)),
                StatusIs(absl::StatusCode::kNotFound, HasSubstr("load: ")));
  }
  EXPECT_TRUE(loaded.empty());
}

TEST(ServerTest, DrainFinishesWhatIsInProgress) {
  TestServer server;
  ComputeGate gate(server);
  PredictCall running(server);
  ASSERT_TRUE(gate.WaitUntilEntered());
  PredictCall waiting(server);
  ASSERT_TRUE(test_support::WaitForQueue(server, 1));
  std::thread stop([&] { server.server->Stop(); });
  // The drain has begun when health, or a server that takes no more calls, says so.
  const auto give_up = std::chrono::steady_clock::now() + test_support::kTestPatience;
  while (CheckHealth(server.channel, "").status == 1) {
    ASSERT_LT(std::chrono::steady_clock::now(), give_up);
  }
  gate.Open();
  EXPECT_TRUE(running.Wait().ok()) << running.Wait().error_message();
  EXPECT_TRUE(waiting.Wait().ok()) << waiting.Wait().error_message();
  stop.join();
  v1::PredictResponse response;
  EXPECT_EQ(Call(*server.predictions, &v1::PredictionService::Stub::Predict, GoodPredictRequest(),
                 &response)
                .error_code(),
            StatusCode::UNAVAILABLE);
}

TEST(ServerTest, DrainCancelsWhatTakesTooLong) {
  v1::ServerConfig config;
  config.set_drain_seconds(0.05);
  TestServer server(config);
  Event entered;
  server.host->SetComputeHook([&](const ComputeContext& context) -> absl::Status {
    entered.Set();
    while (context.Check().ok()) std::this_thread::yield();
    return context.Check();
  });
  PredictCall running(server);
  ASSERT_TRUE(entered.Wait());
  server.server->Stop();
  const StatusCode code = running.Wait().error_code();
  EXPECT_TRUE(code == StatusCode::CANCELLED || code == StatusCode::UNAVAILABLE) << code;
}

TEST(ServerTest, DrainEndsOperationsAndTheirWatchers) {
  TestServer server;
  server.fits->SetWork([](OperationHandle& handle) -> absl::StatusOr<std::string> {
    while (!handle.cancelled()) std::this_thread::yield();
    return absl::CancelledError("stopped");
  });
  v1::FitPosteriorRequest request;
  request.set_model("net");
  request.set_train_dataset_id("sha256-0");
  v1::FitPosteriorResponse response;
  ASSERT_TRUE(
      Call(*server.posteriors, &v1::PosteriorService::Stub::FitPosterior, request, &response).ok());
  grpc::ClientContext context;
  v1::WatchOperationRequest watch;
  watch.set_id(response.operation().id());
  const auto stream = server.operations->WatchOperation(&context, watch);
  v1::WatchOperationResponse snapshot;
  ASSERT_TRUE(stream->Read(&snapshot));
  std::thread stop([&] { server.server->Stop(); });
  v1::Operation last;
  while (stream->Read(&snapshot)) last = snapshot.operation();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(last.state(), v1::OPERATION_STATE_FAILED);
  EXPECT_EQ(last.error_code(), static_cast<int>(StatusCode::ABORTED));
  stop.join();
}

TEST(ServerTest, StopMayBeCalledTwiceAndTogether) {
  TestServer server;
  std::thread other([&] { server.server->Stop(); });
  server.server->Stop();
  other.join();
}

TEST(ServerTest, OperationsSurviveARestart) {
  TempFolder registry;
  std::vector<std::string> loaded;
  std::string id;
  for (int run = 0; run < 2; ++run) {
    auto server = Server::Start(ConfigFor(registry.path()), BackendThatLoads(&loaded));
    ASSERT_THAT(server, IsOk());
    const auto channel =
        grpc::CreateChannel((*server)->address(), grpc::InsecureChannelCredentials());
    const auto stub = v1::OperationService::NewStub(channel);
    if (run == 0) {
      v1::FitPosteriorRequest request;
      request.set_model("a");
      request.set_train_dataset_id("sha256-0");
      v1::FitPosteriorResponse response;
      ASSERT_TRUE(Call(*v1::PosteriorService::NewStub(channel),
                       &v1::PosteriorService::Stub::FitPosterior, request, &response)
                      .ok());
      id = response.operation().id();
    }
    v1::GetOperationRequest request;
    request.set_id(id);
    v1::GetOperationResponse response;
    ASSERT_TRUE(Call(*stub, &v1::OperationService::Stub::GetOperation, request, &response).ok());
    if (run == 1) {
      EXPECT_NE(response.operation().state(), v1::OPERATION_STATE_RUNNING);
    }
  }
}

TEST(ServerTest, ReflectionListsTheServices) {
  TestServer server;
  grpc::GenericStub stub(server.channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const auto stream = stub.PrepareCall(
      &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  const auto wait = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  stream->StartCall(nullptr);
  ASSERT_TRUE(wait());
  // {string list_services = 7}
  const grpc::Slice slice(std::string("\x3a\x01*"));
  stream->Write(grpc::ByteBuffer(&slice, 1), nullptr);
  ASSERT_TRUE(wait());
  grpc::ByteBuffer response;
  stream->Read(&response, nullptr);
  ASSERT_TRUE(wait());
  std::vector<grpc::Slice> slices;
  ASSERT_TRUE(response.Dump(&slices).ok());
  std::string answer;
  for (const grpc::Slice& part : slices) {
    answer.append(reinterpret_cast<const char*>(part.begin()), part.size());
  }
  for (const char* service : {"laplace.v1.PredictionService", "laplace.v1.PosteriorService",
                              "laplace.v1.ModelService", "laplace.v1.OperationService"}) {
    EXPECT_THAT(answer, HasSubstr(service));
  }
  stream->WritesDone(nullptr);
  wait();
  grpc::Status status;
  stream->Finish(&status, nullptr);
  wait();
  queue.Shutdown();
  wait();
}

}  // namespace
}  // namespace laplaced
