#include "server/app/server.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <inference/grpc_predict_v2.grpc.pb.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "formats/file_handle.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/registry/operation_store.h"
#include "tests/support/client_call.h"
#include "tests/support/http_get.h"
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
using test_support::HttpGet;
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

grpc::ByteBuffer HealthRequest(const std::string& service) {
  std::string bytes;
  if (!service.empty()) bytes = std::string("\x0a") + static_cast<char>(service.size()) + service;
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

int StatusIn(const grpc::ByteBuffer& response) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(response.Dump(&slices).ok());
  std::string answer;
  for (const grpc::Slice& part : slices) {
    answer.append(reinterpret_cast<const char*>(part.begin()), part.size());
  }
  return answer.size() == 2 ? answer[1] : 0;
}

Health CheckHealth(const std::shared_ptr<grpc::Channel>& channel, const std::string& service) {
  const grpc::ByteBuffer request = HealthRequest(service);
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
  return {StatusCode::OK, StatusIn(response)};
}

// A Watch: the status at first, then every change.
class HealthWatch {
 public:
  HealthWatch(const std::shared_ptr<grpc::Channel>& channel, const std::string& service)
      : stub_(channel) {
    call_ = stub_.PrepareCall(&context_, "/grpc.health.v1.Health/Watch", &queue_);
    call_->StartCall(this);
    EXPECT_TRUE(Wait());
    call_->Write(HealthRequest(service), this);
    EXPECT_TRUE(Wait());
    call_->WritesDone(this);
    EXPECT_TRUE(Wait());
  }
  ~HealthWatch() {
    Cancel();
    grpc::Status status;
    call_->Finish(&status, this);
    Wait();
  }

  int Next() {
    grpc::ByteBuffer response;
    call_->Read(&response, this);
    return Wait() ? StatusIn(response) : -1;
  }
  void Cancel() { context_.TryCancel(); }

 private:
  bool Wait() {
    void* tag = nullptr;
    bool ok = false;
    const auto deadline = std::chrono::system_clock::now() + std::chrono::seconds(30);
    return queue_.AsyncNext(&tag, &ok, deadline) == grpc::CompletionQueue::GOT_EVENT && ok;
  }

  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
};

v1::ServerConfig ConfigFor(const std::string& registry) {
  v1::ServerConfig config = DefaultConfig();
  config.set_registry(registry);
  config.set_listen("127.0.0.1:0");
  config.set_http_listen("off");
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

grpc::Status StartFit(TestServer& server, v1::FitPosteriorResponse* response) {
  v1::FitPosteriorRequest request;
  request.set_model("net");
  request.set_train_dataset_id("sha256-0");
  return Call(*server.posteriors, &v1::PosteriorService::Stub::FitPosterior, request, response);
}

// Every file and folder below `root` with its time of last change.
std::map<std::string, std::filesystem::file_time_type> Snapshot(const std::string& root) {
  std::map<std::string, std::filesystem::file_time_type> entries;
  entries[root] = std::filesystem::last_write_time(root);
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    entries[entry.path().string()] = entry.last_write_time();
  }
  return entries;
}

void ExpectRefusedAsReadOnly(const grpc::Status& status) {
  EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("this server is read-only"));
}

TEST(ServerTest, SaysWhereItListensAndThatItServes) {
  TestServer server;
  EXPECT_THAT(server.server->address(), HasSubstr("127.0.0.1:"));
  for (const char* service : {"", "laplace.v1.PredictionService"}) {
    EXPECT_EQ(CheckHealth(server.channel, service).status, 1) << service;
  }
  EXPECT_EQ(CheckHealth(server.channel, "nosuch").code, StatusCode::NOT_FOUND);
}

TEST(ServerTest, EveryModelHasItsHealth) {
  TestServer server;
  constexpr int kServing = 1, kNotServing = 2;
  const auto health = [&](const std::string& name) {
    return CheckHealth(server.channel, "models/" + name);
  };
  EXPECT_EQ(health("net").status, kServing);
  EXPECT_EQ(health("net/1").status, kServing);
  EXPECT_EQ(health("net/2").code, StatusCode::NOT_FOUND);
  EXPECT_EQ(health("bare").status, kNotServing);
  ASSERT_THAT(server.host->ActivatePosterior("bare", 1, "p-7", ""), IsOk());
  EXPECT_EQ(health("bare").status, kServing);
  EXPECT_EQ(health("bare/1").status, kServing);

  HealthWatch watch(server.channel, "models/net");
  EXPECT_EQ(watch.Next(), kServing);
  ASSERT_THAT(server.host->Unload("net", 1), IsOk());
  EXPECT_EQ(watch.Next(), kNotServing);
  EXPECT_EQ(health("net/1").status, kNotServing);
  server.host->Add("net", 2, "p-1");
  ASSERT_THAT(server.host->Load("net", 2), IsOk());
  EXPECT_EQ(watch.Next(), kServing);
  EXPECT_EQ(health("net/2").status, kServing);

  std::thread stop([&] { server.server->Stop(); });
  EXPECT_EQ(watch.Next(), kNotServing);
  watch.Cancel();
  stop.join();
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
  testing::internal::CaptureStderr();
  EXPECT_THAT(Server::Start(config, BackendThatLoads(&loaded)),
              StatusIs(absl::StatusCode::kUnavailable,
                       AllOf(HasSubstr(first.server->address()), HasSubstr("taken"))));
  // What is wrong is in the status; gRPC's own pages about it are for the debug level.
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(ServerTest, ReadyOverHttpFollowsHealth) {
  TestServer server;
  const std::string address = server.server->http_address();
  EXPECT_EQ(HttpGet(address, "/v2/health/live").status, 200);
  EXPECT_EQ(HttpGet(address, "/v2/health/ready").status, 200);
  EXPECT_EQ(HttpGet(address, "/metrics").status, 200);

  ComputeGate gate(server);
  PredictCall running(server);
  ASSERT_TRUE(gate.WaitUntilEntered());
  std::thread stop([&] { server.server->Stop(); });
  const auto give_up = std::chrono::steady_clock::now() + test_support::kTestPatience;
  test_support::HttpAnswer ready;
  do {
    ready = HttpGet(address, "/v2/health/ready");
  } while (ready.status == 200 && std::chrono::steady_clock::now() < give_up);
  EXPECT_EQ(ready.status, 503);
  EXPECT_THAT(ready.body, HasSubstr("draining"));
  EXPECT_EQ(HttpGet(address, "/v2/health/live").status, 200);
  gate.Open();
  stop.join();
  EXPECT_EQ(HttpGet(address, "/v2/health/live").status, 0);
}

TEST(ServerTest, IsReadyForOneModelOnceItAnswersWithAPosterior) {
  struct Case {
    std::string name;
    int status;
    std::string body;
  };
  for (const Case& c : {Case{"net", 200, ""}, Case{"bare", 503, "bare has no active posterior"},
                        Case{"other", 503, "other is not loaded"}}) {
    TempFolder folder;
    folder.Write("model.pt", "");
    v1::ServerConfig changes;
    changes.set_registry(folder.path());
    changes.set_read_only(true);
    changes.set_model_name(c.name);
    TestServer server(changes);
    const auto ready = HttpGet(server.server->http_address(), "/v2/health/ready");
    EXPECT_EQ(ready.status, c.status) << c.name;
    EXPECT_THAT(ready.body, HasSubstr(c.body));
    EXPECT_EQ(HttpGet(server.server->http_address(), "/v2/health/live").status, 200);
    auto inference = inference::GRPCInferenceService::NewStub(server.channel);
    inference::ServerReadyResponse answer;
    const auto called = Call(*inference, &inference::GRPCInferenceService::Stub::ServerReady,
                             inference::ServerReadyRequest(), &answer);
    ASSERT_TRUE(called.ok()) << called.error_message();
    EXPECT_EQ(answer.ready(), c.status == 200) << c.name;
  }
}

// The address of the HTTP port, as it stands in a log.
std::string HttpAddressIn(const std::string& log) {
  const std::string before = "http://";
  const size_t begin = log.find(before);
  if (begin == std::string::npos) return "";
  const size_t end = log.find('\n', begin);
  return log.substr(begin + before.size(), end - begin - before.size());
}

TEST(ServerTest, IsAliveAndNotReadyWhileModelsAreLoaded) {
  TempFolder registry;
  AddModelFolders(registry.path());
  v1::ServerConfig config = ConfigFor(registry.path());
  config.set_load("a/1");
  config.set_http_listen("127.0.0.1:0");
  testing::internal::CaptureStderr();
  std::vector<std::string> loaded;
  ServerBackend backend = BackendThatLoads(&loaded);
  test_support::HttpAnswer live, ready;
  const auto make = backend.make_model_host;
  backend.make_model_host = [&](const Repository& repository, const ModelHostOptions& options) {
    auto host = make(repository, options);
    static_cast<FakeModelHost&>(*host).SetLoadHook([&](const std::string&) {
      const std::string address = HttpAddressIn(testing::internal::GetCapturedStderr());
      live = HttpGet(address, "/v2/health/live");
      ready = HttpGet(address, "/v2/health/ready");
      return absl::OkStatus();
    });
    return host;
  };
  const auto server = Server::Start(config, backend);
  ASSERT_THAT(server, IsOk());
  EXPECT_EQ(live.status, 200);
  EXPECT_EQ(ready.status, 503);
  EXPECT_THAT(ready.body, HasSubstr("models are being loaded"));
  EXPECT_EQ(HttpGet((*server)->http_address(), "/v2/health/ready").status, 200);
}

TEST(ServerTest, TakenHttpPortIsAnErrorBeforeAnythingIsLoaded) {
  TestServer first;
  TempFolder registry;
  AddModelFolders(registry.path());
  v1::ServerConfig config = ConfigFor(registry.path());
  config.set_load("all");
  config.set_http_listen(first.server->http_address());
  std::vector<std::string> loaded;
  EXPECT_THAT(Server::Start(config, BackendThatLoads(&loaded)),
              StatusIs(absl::StatusCode::kUnavailable,
                       AllOf(HasSubstr("http_listen: "), HasSubstr(config.http_listen()),
                             HasSubstr("taken"))));
  EXPECT_TRUE(loaded.empty());
  config.set_http_listen("off");
  const auto server = Server::Start(config, BackendThatLoads(&loaded));
  ASSERT_THAT(server, IsOk());
  EXPECT_EQ((*server)->http_address(), "");
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

// A client by hand that has begun HTTP/2 and then neither reads nor closes, like a process whose
// gRPC channel nobody uses: a channel of this process would be served by the server's own threads.
TEST(ServerTest, DuringTheDrainDelayCallsAreStillTaken) {
  v1::ServerConfig config;
  config.set_drain_delay_seconds(4);
  TestServer server(config);
  std::thread stopping([&] { server.server->Stop(); });
  const auto give_up = std::chrono::steady_clock::now() + test_support::kTestPatience;
  while (HttpGet(server.server->http_address(), "/v2/health/ready").status != 503) {
    ASSERT_LT(std::chrono::steady_clock::now(), give_up);
  }
  EXPECT_EQ(CheckHealth(server.channel, "").status, 2);
  v1::PredictResponse response;
  EXPECT_TRUE(Call(*server.predictions, &v1::PredictionService::Stub::Predict, GoodPredictRequest(),
                   &response)
                  .ok());
  stopping.join();
}

TEST(ServerTest, IdleConnectionDoesNotHoldStopUp) {
  TestServer server;
  const UniqueFd client = test_support::ConnectTo(server.server->address());
  ASSERT_GE(client.get(), 0);
  const std::string hello =
      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + std::string("\0\0\0\4\0\0\0\0\0", 9);
  ASSERT_EQ(write(client.get(), hello.data(), hello.size()), static_cast<ssize_t>(hello.size()));
  char answer = 0;
  ASSERT_EQ(read(client.get(), &answer, 1), 1);

  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(server.server->Stop());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2));
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

TEST(ServerTest, CallsThatChangeNothingDoNotWaitForThoseThatDo) {
  TestServer server;
  Event loading, go;
  server.host->SetLoadHook([&](const std::string&) {
    loading.Set();
    EXPECT_TRUE(go.Wait());
    return absl::OkStatus();
  });
  std::thread load([&] {
    v1::LoadModelRequest request;
    request.set_name("net");
    v1::LoadModelResponse response;
    EXPECT_TRUE(Call(*server.models, &v1::ModelService::Stub::LoadModel, request, &response).ok());
  });
  ASSERT_TRUE(loading.Wait());
  v1::ListModelsResponse models;
  EXPECT_TRUE(Call(*server.models, &v1::ModelService::Stub::ListModels, {}, &models).ok());
  EXPECT_EQ(models.models_size(), 2);
  v1::ListPosteriorsRequest request;
  request.set_model("net");
  v1::ListPosteriorsResponse posteriors;
  EXPECT_TRUE(
      Call(*server.posteriors, &v1::PosteriorService::Stub::ListPosteriors, request, &posteriors)
          .ok());
  go.Set();
  load.join();
}

TEST(ServerTest, DrainEndsOperationsAndTheirWatchers) {
  TestServer server;
  server.fits->SetWork([](OperationHandle& handle) -> absl::StatusOr<std::string> {
    while (!handle.cancelled()) std::this_thread::yield();
    return absl::CancelledError("stopped");
  });
  v1::FitPosteriorResponse response;
  ASSERT_TRUE(StartFit(server, &response).ok());
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

TEST(ServerTest, StopDoesNotWaitForAFitThatDoesNotReact) {
  v1::ServerConfig config;
  config.set_drain_seconds(0.05);
  Event entered;
  Event release;
  TestServer server(config);
  server.fits->SetWork([&](OperationHandle&) -> absl::StatusOr<std::string> {
    entered.Set();
    EXPECT_TRUE(release.Wait());
    return std::string("p-1");
  });
  v1::FitPosteriorResponse fit;
  ASSERT_TRUE(StartFit(server, &fit).ok());
  ASSERT_TRUE(entered.Wait());
  EXPECT_FALSE(server.server->Stop());
  // What a later start would find.
  TempFolder copy;
  const std::string records = server.registry() + "/operations";
  std::filesystem::copy(records, copy.path(), std::filesystem::copy_options::recursive);
  const auto store = OperationStore::Open(copy.path());
  ASSERT_THAT(store, IsOk());
  ASSERT_EQ(store->recovered().size(), 1u);
  EXPECT_EQ(store->recovered()[0].error_code, static_cast<int>(absl::StatusCode::kAborted));
  EXPECT_THAT(store->recovered()[0].error_message, HasSubstr("was stopped"));
  release.Set();  // the server's destructor waits for the work
}

TEST(ServerTest, SecondServerOnARegistryFailsAndChangesNothing) {
  TestServer first;
  first.fits->SetWork([](OperationHandle& handle) -> absl::StatusOr<std::string> {
    while (!handle.cancelled()) std::this_thread::yield();
    return absl::CancelledError("stopped");
  });
  v1::FitPosteriorResponse fit;
  ASSERT_TRUE(StartFit(first, &fit).ok());
  std::filesystem::create_directories(first.registry() + "/datasets/.tmp-of-an-upload");
  TempFolder folder;
  v1::ServerConfig config = ConfigFor(first.registry());
  config.set_address_file(folder.Write("address", first.server->address()));
  const auto before = Snapshot(first.registry());

  std::vector<std::string> loaded;
  EXPECT_THAT(Server::Start(config, BackendThatLoads(&loaded)),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr(first.registry()), HasSubstr("another laplaced"))));
  EXPECT_EQ(Snapshot(first.registry()), before);
  EXPECT_TRUE(std::filesystem::exists(config.address_file()));
  v1::GetOperationRequest request;
  request.set_id(fit.operation().id());
  v1::GetOperationResponse response;
  ASSERT_TRUE(
      Call(*first.operations, &v1::OperationService::Stub::GetOperation, request, &response).ok());
  EXPECT_EQ(response.operation().state(), v1::OPERATION_STATE_RUNNING);

  first.server.reset();
  EXPECT_THAT(Server::Start(config, BackendThatLoads(&loaded)), IsOk());
  EXPECT_FALSE(std::filesystem::exists(config.address_file()));
}

TEST(ServerTest, ReadOnlyServerChangesNothingInItsRegistry) {
  TestServer writer;
  AddModelFolders(writer.registry());
  writer.fits->SetWork([](OperationHandle& handle) -> absl::StatusOr<std::string> {
    while (!handle.cancelled()) std::this_thread::yield();
    return absl::CancelledError("stopped");
  });
  v1::FitPosteriorResponse running;
  ASSERT_TRUE(StartFit(writer, &running).ok());
  std::filesystem::create_directories(writer.registry() + "/datasets/.tmp-of-an-upload");
  test_support::WriteFileBytes(writer.registry() + "/operations/op-bad.json", "{}");
  const auto before = Snapshot(writer.registry());

  v1::ServerConfig config;
  config.set_registry(writer.registry());
  config.set_read_only(true);
  {
    TestServer replicas[2] = {TestServer(config), TestServer(config)};
    for (TestServer& replica : replicas) {
      v1::PredictResponse prediction;
      EXPECT_TRUE(Call(*replica.predictions, &v1::PredictionService::Stub::Predict,
                       GoodPredictRequest(), &prediction)
                      .ok());
      v1::ListModelsResponse models;
      EXPECT_TRUE(Call(*replica.models, &v1::ModelService::Stub::ListModels,
                       v1::ListModelsRequest(), &models)
                      .ok());
      v1::GetPosteriorRequest get;
      get.set_model("net");
      v1::GetPosteriorResponse posterior;
      EXPECT_TRUE(
          Call(*replica.posteriors, &v1::PosteriorService::Stub::GetPosterior, get, &posterior)
              .ok());
      v1::ListOperationsResponse operations;
      EXPECT_TRUE(Call(*replica.operations, &v1::OperationService::Stub::ListOperations,
                       v1::ListOperationsRequest(), &operations)
                      .ok());
      EXPECT_EQ(operations.operations_size(), 0) << "the running one is the writer's";

      v1::FitPosteriorResponse fit;
      ExpectRefusedAsReadOnly(StartFit(replica, &fit));
      v1::UpdatePosteriorRequest update;
      update.set_model("net");
      update.set_dataset_id("sha256-0");
      v1::UpdatePosteriorResponse updated;
      ExpectRefusedAsReadOnly(Call(*replica.posteriors,
                                   &v1::PosteriorService::Stub::UpdatePosterior, update, &updated));
      v1::CalibrateOodRequest calibrate;
      calibrate.set_model("net");
      calibrate.set_dataset_id("sha256-0");
      v1::CalibrateOodResponse calibrated;
      ExpectRefusedAsReadOnly(Call(*replica.posteriors, &v1::PosteriorService::Stub::CalibrateOod,
                                   calibrate, &calibrated));
      v1::ActivatePosteriorRequest activate;
      activate.set_model("net");
      activate.set_posterior_id("p-2");
      v1::ActivatePosteriorResponse activated;
      ExpectRefusedAsReadOnly(Call(*replica.posteriors,
                                   &v1::PosteriorService::Stub::ActivatePosterior, activate,
                                   &activated));
      v1::DeletePosteriorRequest remove;
      remove.set_model("net");
      remove.set_posterior_id("p-2");
      v1::DeletePosteriorResponse removed;
      ExpectRefusedAsReadOnly(Call(*replica.posteriors,
                                   &v1::PosteriorService::Stub::DeletePosterior, remove, &removed));
      grpc::ClientContext context;
      v1::UploadDatasetResponse uploaded;
      const auto upload = replica.posteriors->UploadDataset(&context, &uploaded);
      upload->Write(v1::UploadDatasetRequest());
      upload->WritesDone();
      ExpectRefusedAsReadOnly(upload->Finish());
      EXPECT_TRUE(replica.server->Stop());
    }
  }
  EXPECT_EQ(Snapshot(writer.registry()), before);
}

TEST(ServerTest, ReadOnlyServerNeedsAnExistingFolder) {
  TempFolder folder;
  v1::ServerConfig config = ConfigFor(folder.File("none"));
  config.set_read_only(true);
  std::vector<std::string> loaded;
  EXPECT_THAT(Server::Start(config, BackendThatLoads(&loaded)),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(folder.File("none"))));
  EXPECT_FALSE(std::filesystem::exists(folder.File("none")));
  config.set_registry(folder.Write("file", ""));
  EXPECT_THAT(Server::Start(config, BackendThatLoads(&loaded)), testing::Not(IsOk()));
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
  for (const char* service :
       {"laplace.v1.PredictionService", "laplace.v1.PosteriorService", "laplace.v1.ModelService",
        "laplace.v1.OperationService", "inference.GRPCInferenceService"}) {
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
