// Who may call: tokens with roles on every method, TLS and client certificates.
#include <grpcpp/generic/generic_stub.h>
#include <inference/grpc_predict_v2.grpc.pb.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/sha256.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/rpc/call_guard.h"
#include "server/rpc/call_observer.h"
#include "server/rpc/server_credentials.h"
#include "tests/support/certificates.h"
#include "tests/support/event.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_server.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;
using grpc::StatusCode;
using test_support::GoodPredictRequest;
using test_support::IsOk;
using test_support::StatusIs;
using test_support::TempFolder;
using test_support::TestServer;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

void Write(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

std::string Read(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string Entry(const std::string& name, const std::string& role, const std::string& token) {
  return absl::StrCat(R"({"name":")", name, R"(","role":")", role, R"(","sha256":")",
                      Sha256Hex(token), R"("})");
}

// Calls any method with an empty request.
StatusCode CallAny(const std::shared_ptr<grpc::Channel>& channel, const CallMethod& method,
                   const std::string& authorization) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + test_support::kTestPatience);
  if (!authorization.empty()) context.AddMetadata("authorization", authorization);
  grpc::CompletionQueue queue;
  const auto call =
      stub.PrepareCall(&context, absl::StrCat("/", method.service, "/", method.method), &queue);
  const auto wait = [&] {
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    return ok;
  };
  call->StartCall(nullptr);
  wait();
  const grpc::Slice empty("");
  call->Write(grpc::ByteBuffer(&empty, 1), nullptr);
  if (wait()) {
    call->WritesDone(nullptr);
    wait();
  }
  grpc::ByteBuffer answer;
  bool more = true;
  while (more) {
    call->Read(&answer, nullptr);
    more = wait();
  }
  grpc::Status status;
  call->Finish(&status, nullptr);
  wait();
  queue.Shutdown();
  return status.error_code();
}

class AccessTest : public ::testing::Test {
 protected:
  AccessTest() {
    Write(tokens_, absl::StrCat("{\"tokens\":[", Entry("ci", "admin", "secret-a"), ",",
                                Entry("app", "predict", "secret-p"), "]}"));
  }
  v1::ServerConfig WithTokens() const {
    v1::ServerConfig config;
    config.set_tokens(tokens_);
    return config;
  }

  TempFolder folder_;
  const std::string tokens_ = folder_.path() + "/tokens.json";
};

// Whoever adds a method decides here what it needs.
TEST_F(AccessTest, EveryMethodAsksForAToken) {
  const std::set<std::string> open = {"ServerLive", "ServerReady", "ModelReady"};
  const std::set<std::string> predict = {
      "Predict",        "Score",          "PredictStream", "ListModels",   "GetModel",
      "ListPosteriors", "GetPosterior",   "GetDataset",    "GetOperation", "ListOperations",
      "WatchOperation", "ServerMetadata", "ModelMetadata", "ModelInfer"};
  const std::set<std::string> admin = {
      "LoadModel",  "UnloadModel",       "FitPosterior",    "UpdatePosterior", "CalibrateOod",
      "NewtonStep", "ActivatePosterior", "DeletePosterior", "UploadDataset",   "CancelOperation"};
  TestServer server(WithTokens());
  for (const CallMethod& method : ServedMethods()) {
    const std::string& name = method.method;
    SCOPED_TRACE(name);
    const auto call = [&](const std::string& authorization) {
      return CallAny(server.channel, method, authorization);
    };
    if (open.count(name) > 0) {
      EXPECT_NE(call(""), StatusCode::UNAUTHENTICATED);
      continue;
    }
    for (const char* wrong : {"", "Bearer", "Bearer ", "Bearer secret", "Basic secret-a",
                              "secret-a", "Bearer secret-a "}) {
      EXPECT_EQ(call(wrong), StatusCode::UNAUTHENTICATED) << wrong;
    }
    ASSERT_EQ(predict.count(name) + admin.count(name), 1u) << "what does this method need?";
    const StatusCode lesser = call("Bearer secret-p");
    if (admin.count(name) > 0) {
      EXPECT_EQ(lesser, StatusCode::PERMISSION_DENIED);
    } else {
      EXPECT_NE(lesser, StatusCode::PERMISSION_DENIED);
      EXPECT_NE(lesser, StatusCode::UNAUTHENTICATED);
    }
    const StatusCode full = call("bearer secret-a");
    EXPECT_NE(full, StatusCode::PERMISSION_DENIED);
    EXPECT_NE(full, StatusCode::UNAUTHENTICATED);
  }
}

TEST_F(AccessTest, HealthAsksForNone) {
  TestServer server(WithTokens());
  EXPECT_NE(CallAny(server.channel, {"unary", "grpc.health.v1.Health", "Check"}, ""),
            StatusCode::UNAUTHENTICATED);
}

TEST_F(AccessTest, AServerWithoutTokensLetsEverybodyDoEverything) {
  TestServer server;
  for (const CallMethod& method : ServedMethods()) {
    EXPECT_NE(CallAny(server.channel, method, ""), StatusCode::UNAUTHENTICATED) << method.method;
  }
}

TEST_F(AccessTest, ChangedTokensHoldAndBrokenOnesDoNot) {
  auto guard = CallGuard::Create(tokens_, 3600);
  ASSERT_THAT(guard, IsOk());
  const auto table_holds = [&](const std::string& token) {
    const auto table = TokenTable::Read(tokens_);
    return table.ok() && table->Find(token) != nullptr;
  };
  ASSERT_TRUE(table_holds("secret-a"));
  v1::ServerConfig config = WithTokens();
  config.set_credentials_refresh_seconds(1);
  TestServer server(config);
  const CallMethod list{"unary", "laplace.v1.ModelService", "ListModels"};
  EXPECT_EQ(CallAny(server.channel, list, "Bearer secret-n"), StatusCode::UNAUTHENTICATED);
  Write(tokens_, absl::StrCat("{\"tokens\":[", Entry("new", "predict", "secret-n"), "]}"));
  const auto give_up = std::chrono::steady_clock::now() + test_support::kTestPatience;
  while (CallAny(server.channel, list, "Bearer secret-n") != StatusCode::OK) {
    ASSERT_LT(std::chrono::steady_clock::now(), give_up);
  }
  EXPECT_EQ(CallAny(server.channel, list, "Bearer secret-a"), StatusCode::UNAUTHENTICATED);
  // The guard made above has its own clock.
  Write(tokens_, "{\"tokens\":[]}");
  (*guard)->Refresh();
  std::filesystem::remove(tokens_);
  (*guard)->Refresh();
  EXPECT_EQ(CallAny(server.channel, list, "Bearer secret-n"), StatusCode::OK);
}

TEST_F(AccessTest, BadTokenFilesStopTheServer) {
  const std::string good = Entry("a", "admin", "x"), digest(64, 'a');
  const std::pair<std::string, std::string> bad[] = {
      {"", "JSON object"},
      {"[]", "JSON object"},
      {"{}", "tokens: expected a list"},
      {R"({"tokens":[]})", "at least one"},
      {R"({"tokens":[3]})", "tokens[0]"},
      {R"({"tokens":[{"name":"a"}]})", "tokens[0].role"},
      {R"({"tokens":[{"name":"a","role":"root","sha256":")" + digest + "\"}]}", "got 'root'"},
      {R"({"tokens":[{"name":"a","role":"admin","sha256":"hunter2"}]})", "tokens[0].sha256"},
      {R"({"tokens":[{"name":"a","role":"admin","sha256":")" + digest + R"(","token":"x"}]})",
       "tokens[0].token"},
      {"{\"tokens\":[" + good + "," + good + "]}", "tokens[1].name"},
      {"{\"tokens\":[" + good + "],\"more\":1}", "more"}};
  for (const auto& [text, part] : bad) {
    const auto table = TokenTable::Parse(text);
    EXPECT_THAT(table.status(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(part)))
        << text;
    EXPECT_THAT(std::string(table.status().message()), Not(HasSubstr("hunter2")));
  }
  v1::ServerConfig config = DefaultConfig();
  config.set_registry(folder_.path());
  config.set_tokens(folder_.path() + "/nosuch.json");
  EXPECT_THAT(ValidateConfig(config),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tokens: ")));
}

class TlsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!test_support::HaveOpenSsl()) GTEST_SKIP() << "needs the program openssl";
    ASSERT_TRUE(test_support::MakeAuthority(at_, "ca"));
    ASSERT_TRUE(test_support::MakeAuthority(at_, "other"));
    ASSERT_TRUE(test_support::MakeCertificate(at_, "ca", "server", "localhost"));
    ASSERT_TRUE(test_support::MakeCertificate(at_, "ca", "client", "robot"));
  }

  v1::ServerConfig Config(bool mutual) const {
    v1::ServerConfig config;
    config.set_tls_cert(at_ + "/server.pem");
    config.set_tls_key(at_ + "/server.key");
    if (mutual) config.set_tls_client_ca(at_ + "/ca.pem");
    config.set_credentials_refresh_seconds(1);
    return config;
  }

  // A call over a connection of its own; `ca` empty: plain text.
  StatusCode Predict(const TestServer& server, const std::string& ca,
                     const std::string& client = "") const {
    std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
    if (!ca.empty()) {
      grpc::SslCredentialsOptions options;
      options.pem_root_certs = Read(at_ + "/" + ca + ".pem");
      if (!client.empty()) {
        options.pem_cert_chain = Read(at_ + "/" + client + ".pem");
        options.pem_private_key = Read(at_ + "/" + client + ".key");
      }
      credentials = grpc::SslCredentials(options);
    }
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const auto stub = v1::PredictionService::NewStub(
        grpc::CreateCustomChannel(server.server->address(), credentials, arguments));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + test_support::kTestPatience);
    v1::PredictResponse response;
    return stub->Predict(&context, GoodPredictRequest(), &response).error_code();
  }

  TempFolder folder_;
  const std::string at_ = folder_.path();
};

TEST_F(TlsTest, SpeaksTlsOnly) {
  TestServer server(Config(false));
  EXPECT_EQ(Predict(server, "ca"), StatusCode::OK);
  EXPECT_EQ(Predict(server, "other"), StatusCode::UNAVAILABLE);
  EXPECT_EQ(Predict(server, ""), StatusCode::UNAVAILABLE);
}

TEST_F(TlsTest, MutualTlsAsksForACertificate) {
  ASSERT_TRUE(test_support::MakeCertificate(at_, "other", "stranger", "robot"));
  TestServer server(Config(true));
  EXPECT_EQ(Predict(server, "ca", "client"), StatusCode::OK);
  EXPECT_EQ(Predict(server, "ca"), StatusCode::UNAVAILABLE);
  EXPECT_EQ(Predict(server, "ca", "stranger"), StatusCode::UNAVAILABLE);
}

// Kubernetes replaces certificates in place; nobody restarts a server for it.
TEST_F(TlsTest, ANewCertificateIsTakenUp) {
  TestServer server(Config(false));
  ASSERT_EQ(Predict(server, "ca"), StatusCode::OK);
  ASSERT_TRUE(test_support::MakeCertificate(at_, "other", "next", "localhost"));
  std::filesystem::rename(at_ + "/next.key", at_ + "/server.key");
  std::filesystem::rename(at_ + "/next.pem", at_ + "/server.pem");
  const auto give_up = std::chrono::steady_clock::now() + test_support::kTestPatience;
  while (Predict(server, "other") != StatusCode::OK) {
    ASSERT_LT(std::chrono::steady_clock::now(), give_up);
  }
  EXPECT_EQ(Predict(server, "ca"), StatusCode::UNAVAILABLE);
}

TEST_F(TlsTest, ACertificateThatGoesAwayIsUsedOn) {
  TestServer server(Config(true));
  ASSERT_EQ(Predict(server, "ca", "client"), StatusCode::OK);
  std::filesystem::remove(at_ + "/server.key");
  Write(at_ + "/server.pem", "rubbish");
  // Long enough for a server that looks every second to have taken notice.
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(2500);
  while (std::chrono::steady_clock::now() < until) {
    ASSERT_EQ(Predict(server, "ca", "client"), StatusCode::OK);
  }
}

TEST_F(TlsTest, FilesThatCannotBeUsedStopTheServer) {
  const std::string cert = at_ + "/server.pem", key = at_ + "/server.key", ca = at_ + "/ca.pem",
                    missing = at_ + "/missing.pem", rubbish = at_ + "/rubbish.pem";
  Write(rubbish, "rubbish");
  const auto expect = [](const TlsFiles& files, const std::string& setting,
                         const std::string& part) {
    EXPECT_THAT(CheckTlsFiles(files), StatusIs(absl::StatusCode::kInvalidArgument,
                                               AllOf(HasSubstr(setting), HasSubstr(part))));
  };
  EXPECT_THAT(CheckTlsFiles({cert, key, ca}), IsOk());
  expect({missing, key, ""}, "tls_cert: ", "missing.pem");
  expect({cert, missing, ""}, "tls_key: ", "missing.pem");
  expect({cert, key, missing}, "tls_client_ca: ", "missing.pem");
  expect({rubbish, key, ""}, "tls_cert: ", "PEM");
  expect({cert, rubbish, ""}, "tls_key: ", "PEM");
  expect({cert, key, rubbish}, "tls_client_ca: ", "PEM");
  expect({cert, at_ + "/client.key", ""}, "tls_key: ", "mismatch");
}

TEST_F(TlsTest, SettingsThatDoNotGoTogetherAreErrors) {
  const auto expect = [this](const std::string& cert, const std::string& key, const std::string& ca,
                             const std::string& part) {
    v1::ServerConfig config = DefaultConfig();
    config.set_registry(at_);
    config.set_tls_cert(cert);
    config.set_tls_key(key);
    config.set_tls_client_ca(ca);
    EXPECT_THAT(ValidateConfig(config),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(part)));
  };
  expect("a", "", "", "tls_key: expected a file");
  expect("", "a", "", "tls_cert: expected a file");
  expect("", "", "a", "tls_client_ca: expected tls_cert");
}

}  // namespace
}  // namespace laplaced
