// The real command line against a real server that speaks TLS and asks for tokens.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/integration/world.h"
#include "tests/support/certificates.h"
#include "tests/support/python.h"

namespace laplaced::integration {
namespace {

using test_support::ShellQuoted;
using ::testing::HasSubstr;

struct Said {
  int exit_status = -1;
  std::string text;
};

Said Laplace(const std::string& arguments) {
  Said said;
  FILE* pipe = popen((ShellQuoted(LAPLACE_CLI_BINARY) + " " + arguments + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return said;
  char block[4096];
  for (size_t n; (n = fread(block, 1, sizeof block, pipe)) > 0;) said.text.append(block, n);
  const int status = pclose(pipe);
  said.exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return said;
}

TEST(TlsIntegrationTest, CommandLineWithCertificatesAndTokens) {
  if (!test_support::HaveOpenSsl()) GTEST_SKIP() << "needs the program openssl";
  const test_support::TempFolder folder;
  const std::string& at = folder.path();
  ASSERT_TRUE(test_support::MakeAuthority(at, "ca"));
  ASSERT_TRUE(test_support::MakeAuthority(at, "other"));
  ASSERT_TRUE(test_support::MakeCertificate(at, "ca", "server", "localhost"));
  ASSERT_TRUE(test_support::MakeCertificate(at, "ca", "client", "robot"));
  nlohmann::json tokens;
  for (const char* role : {"predict", "admin"}) {
    const Said made = Laplace(std::string("--output json token ") + role + "-user --role " + role);
    ASSERT_EQ(made.exit_status, 0) << made.text;
    const auto parsed = nlohmann::json::parse(made.text);
    std::ofstream(at + "/" + role + ".token") << parsed["token"].get<std::string>() << "\n";
    tokens["tokens"].push_back(parsed["entry"]);
  }
  std::ofstream(at + "/tokens.json") << tokens.dump();

  World world;
  laplace::v1::ServerConfig changes;
  changes.set_tls_cert(at + "/server.pem");
  changes.set_tls_key(at + "/server.key");
  changes.set_tls_client_ca(at + "/ca.pem");
  changes.set_tokens(at + "/tokens.json");
  world.Start(changes);

  const std::string server = " --timeout 20 --server " + world.address();
  const std::string ca = " --ca-cert " + at + "/ca.pem",
                    client =
                        " --client-cert " + at + "/client.pem --client-key " + at + "/client.key",
                    predict = " --token-file " + at + "/predict.token",
                    admin = " --token-file " + at + "/admin.token";
  Said said = Laplace("models ls" + server + ca + client + predict);
  EXPECT_EQ(said.exit_status, 0) << said.text;
  EXPECT_THAT(said.text, HasSubstr("mlp"));
  said = Laplace("models load mlp" + server + ca + client + predict);
  EXPECT_EQ(said.exit_status, 1);
  EXPECT_THAT(said.text, HasSubstr("needs the role admin"));
  said = Laplace("models load mlp" + server + ca + client + admin);
  EXPECT_EQ(said.exit_status, 0) << said.text;
  said = Laplace("models ls" + server + ca + client);
  EXPECT_EQ(said.exit_status, 1);
  EXPECT_THAT(said.text, HasSubstr("--token-file"));
  for (const std::string& wrong : {ca, " --ca-cert " + at + "/other.pem" + client, std::string()}) {
    said = Laplace("models ls --timeout 2 --server " + world.address() + wrong + predict);
    EXPECT_EQ(said.exit_status, 1) << wrong << said.text;
  }
  said = Laplace("models ls --server example.org:1" + predict);
  EXPECT_EQ(said.exit_status, 1);
  EXPECT_THAT(said.text, HasSubstr("expected TLS"));
  said = Laplace("health" + server + ca + client);
  EXPECT_EQ(said.exit_status, 0) << said.text;
}

}  // namespace
}  // namespace laplaced::integration
