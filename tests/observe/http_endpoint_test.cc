#include "server/observe/http_endpoint.h"

#include <atomic>
#include <chrono>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/event.h"
#include "tests/support/http_get.h"
#include "tests/support/status_matchers.h"

namespace laplaced {
namespace {

using test_support::ConnectTo;
using test_support::Event;
using test_support::HttpAnswer;
using test_support::HttpGet;
using test_support::HttpRequest;
using test_support::IsOk;
using test_support::ReadToEnd;
using test_support::SendAll;
using test_support::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using Clock = std::chrono::steady_clock;

HttpHandlers Handlers(std::string not_ready = "") {
  return {[] { return std::string("some_metric 1\n"); }, [not_ready] { return not_ready; }};
}

std::unique_ptr<HttpEndpoint> Open(HttpHandlers handlers, const HttpLimits& limits = {}) {
  auto opened = HttpEndpoint::Create("127.0.0.1:0", std::move(handlers), limits);
  EXPECT_THAT(opened, IsOk());
  return opened.ok() ? *std::move(opened) : nullptr;
}

TEST(HttpEndpointTest, ServesMetricsAndProbes) {
  const auto endpoint = Open(Handlers());
  EXPECT_THAT(endpoint->address(), MatchesRegex("127[.]0[.]0[.]1:[1-9][0-9]*"));
  const HttpAnswer metrics = HttpGet(endpoint->address(), "/metrics");
  EXPECT_EQ(metrics.status, 200);
  EXPECT_THAT(metrics.head, HasSubstr("Content-Type: text/plain; version=0.0.4; charset=utf-8"));
  EXPECT_EQ(metrics.body, "some_metric 1\n");
  EXPECT_EQ(HttpGet(endpoint->address(), "/v2/health/live").status, 200);
  EXPECT_EQ(HttpGet(endpoint->address(), "/v2/health/ready").status, 200);
  // What comes after the path is the caller's business.
  EXPECT_EQ(HttpGet(endpoint->address(), "/metrics?name=x").status, 200);
}

TEST(HttpEndpointTest, SaysWhyItIsNotReady) {
  const auto endpoint = Open(Handlers("models are being loaded"));
  const HttpAnswer answer = HttpGet(endpoint->address(), "/v2/health/ready");
  EXPECT_EQ(answer.status, 503);
  EXPECT_THAT(answer.body, HasSubstr("models are being loaded"));
  EXPECT_EQ(HttpGet(endpoint->address(), "/v2/health/live").status, 200);
}

TEST(HttpEndpointTest, RefusesOtherPathsAndMethods) {
  const auto endpoint = Open(Handlers());
  const std::string& address = endpoint->address();
  for (const char* path : {"/", "/metric", "/metrics/", "/v2/health", "/../metrics", "/%00"}) {
    EXPECT_EQ(HttpGet(address, path).status, 404) << path;
  }
  for (const char* method : {"POST", "PUT", "DELETE", "PATCH", "OPTIONS"}) {
    const HttpAnswer answer = HttpRequest(
        address, std::string(method) + " /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello");
    EXPECT_EQ(answer.status, 405) << method;
    EXPECT_THAT(answer.head, HasSubstr("Allow: GET, HEAD"));
  }
  const HttpAnswer head = HttpRequest(address, "HEAD /metrics HTTP/1.1\r\n\r\n");
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.body, "");
}

TEST(HttpEndpointTest, SurvivesWhatIsNoHttp) {
  const auto endpoint = Open(Handlers());
  const std::string& address = endpoint->address();
  EXPECT_EQ(HttpRequest(address, "hello\r\n\r\n").status, 400);
  EXPECT_EQ(HttpRequest(address, std::string("\0\1\2\r\n\r\n", 7)).status, 400);
  { const auto client = ConnectTo(address); }  // says nothing and goes
  EXPECT_EQ(HttpGet(address, "/" + std::string(9000, 'x')).status, 414);
  EXPECT_EQ(HttpGet(address, "/metrics").status, 200);
}

TEST(HttpEndpointTest, EndsConnectionsThatSendTooMuch) {
  const auto endpoint = Open(Handlers());
  const auto client = ConnectTo(endpoint->address());
  const std::string header = "X: " + std::string(1000, 'x') + "\r\n";
  ASSERT_TRUE(SendAll(client, "GET /metrics HTTP/1.1\r\n"));
  const auto begin = Clock::now();
  for (int i = 0; i < 1000 && SendAll(client, header); ++i) {
  }
  EXPECT_THAT(ReadToEnd(client), testing::Not(HasSubstr("some_metric")));
  // By size, before its time is over.
  EXPECT_LT(Clock::now() - begin, HttpLimits().patience);
}

TEST(HttpEndpointTest, SlowClientsTimeOutHoweverTheyDripAndOthersAreServed) {
  HttpLimits limits;
  limits.patience = std::chrono::milliseconds(300);
  const auto endpoint = Open(Handlers(), limits);
  const auto begin = Clock::now();
  std::vector<std::thread> slow;
  for (size_t i = 0; i < limits.threads; ++i) {
    slow.emplace_back([&] {
      const auto client = ConnectTo(endpoint->address());
      // A byte now and then: every single wait is short.
      while (SendAll(client, "x") && Clock::now() - begin < std::chrono::seconds(20)) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      }
    });
  }
  EXPECT_EQ(HttpGet(endpoint->address(), "/metrics").status, 200);
  for (std::thread& client : slow) client.join();
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(10));
}

TEST(HttpEndpointTest, ClosesConnectionsBeyondThoseThatMayWait) {
  HttpLimits limits;
  limits.threads = 1;
  limits.max_waiting = 1;
  Event entered;
  Event open;
  HttpHandlers handlers = Handlers();
  handlers.metrics = [&] {
    entered.Set();
    EXPECT_TRUE(open.Wait());
    return std::string("done\n");
  };
  const auto endpoint = Open(handlers, limits);
  HttpAnswer served;
  std::thread running([&] { served = HttpGet(endpoint->address(), "/metrics"); });
  ASSERT_TRUE(entered.Wait());
  const auto waiting = ConnectTo(endpoint->address());
  ASSERT_TRUE(SendAll(waiting, "GET /v2/health/live HTTP/1.1\r\n\r\n"));
  // Accepted after the one that waits, and closed while everything is still held up.
  EXPECT_EQ(HttpGet(endpoint->address(), "/v2/health/live").status, 0);
  open.Set();
  EXPECT_THAT(ReadToEnd(waiting), HasSubstr("200 OK"));
  running.join();
  EXPECT_EQ(served.body, "done\n");
}

TEST(HttpEndpointTest, TakenPortIsAnErrorAlsoForAnotherEndpoint) {
  const auto first = Open(Handlers());
  EXPECT_THAT(HttpEndpoint::Create(first->address(), Handlers()),
              StatusIs(absl::StatusCode::kUnavailable,
                       AllOf(HasSubstr(first->address()), HasSubstr("taken"))));
  EXPECT_THAT(HttpEndpoint::Create("192.0.2.1:0", Handlers()),
              StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(HttpEndpoint::Create("nonsense", Handlers()),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(HttpEndpointTest, PortIsFreeAgainAfterwards) {
  std::string address;
  for (int i = 0; i < 5; ++i) {
    const auto endpoint = HttpEndpoint::Create(i == 0 ? "127.0.0.1:0" : address, Handlers());
    ASSERT_THAT(endpoint, IsOk());
    address = (*endpoint)->address();
    EXPECT_EQ(HttpGet(address, "/metrics").status, 200);
  }
}

TEST(HttpEndpointTest, ManyClientsAtOnce) {
  const auto endpoint = Open(Handlers());
  std::vector<std::thread> clients;
  std::atomic<int> good{0};
  for (int t = 0; t < 8; ++t) {
    clients.emplace_back([&] {
      for (int i = 0; i < 25; ++i) {
        if (HttpGet(endpoint->address(), "/metrics").status == 200) ++good;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(good, 200);
}

}  // namespace
}  // namespace laplaced
