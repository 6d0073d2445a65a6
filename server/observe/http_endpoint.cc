#include "server/observe/http_endpoint.h"

#include <httplib.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/observe/metrics.h"

namespace laplaced {
namespace {

using Clock = std::chrono::steady_clock;

constexpr char kPlainText[] = "text/plain; charset=utf-8";

// One connection, with a limit to its bytes and to its time as a whole. httplib's own times out
// between two bytes only, so that a byte now and then would hold its thread forever.
class LimitedStream final : public httplib::Stream {
 public:
  LimitedStream(int socket, const HttpLimits& limits)
      : socket_(socket),
        deadline_(Clock::now() + limits.patience),
        budget_(limits.max_request_bytes) {}

  bool is_readable() const override { return begin_ < end_ || Wait(POLLIN); }
  bool is_writable() const override { return Wait(POLLOUT); }

  ssize_t read(char* to, size_t size) override {
    if (begin_ == end_) {
      const size_t most = std::min(budget_, sizeof buffer_);
      if (most == 0 || !Wait(POLLIN)) return -1;
      const ssize_t got = recv(socket_, buffer_, most, MSG_DONTWAIT);
      if (got <= 0) return got;
      begin_ = 0;
      end_ = static_cast<size_t>(got);
      budget_ -= end_;
    }
    const size_t count = std::min(size, end_ - begin_);
    std::copy_n(buffer_ + begin_, count, to);
    begin_ += count;
    return static_cast<ssize_t>(count);
  }
  ssize_t write(const char* from, size_t size) override {
    if (!Wait(POLLOUT)) return -1;
    return send(socket_, from, size, MSG_DONTWAIT | MSG_NOSIGNAL);
  }

  // Nobody asks who is there.
  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}
  socket_t socket() const override { return socket_; }

  // Says that no more will come, and lets the client finish: closing with bytes unread would reset
  // the connection, and the answer might be lost with it.
  void Drain() {
    shutdown(socket_, SHUT_WR);
    while (budget_ > 0 && Wait(POLLIN)) {
      const ssize_t got = recv(socket_, buffer_, std::min(budget_, sizeof buffer_), MSG_DONTWAIT);
      if (got <= 0) break;
      budget_ -= static_cast<size_t>(got);
    }
  }

 private:
  bool Wait(short events) const {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline_ - Clock::now()).count();
    if (left <= 0) return false;
    pollfd entry = {socket_, events, 0};
    return poll(&entry, 1, static_cast<int>(left)) == 1;
  }

  const int socket_;
  const Clock::time_point deadline_;
  size_t budget_;  // bytes that may still come
  char buffer_[4096];
  size_t begin_ = 0, end_ = 0;  // of what is read and not taken
};

// True on the thread that accepts, while it hands on a connection that has no room.
thread_local bool refusing = false;

// What a queue says of a connection: nothing in httplib 0.11, later whether it was taken.
using Enqueued = decltype(std::declval<httplib::TaskQueue&>().enqueue(nullptr));

class BoundedPool final : public httplib::TaskQueue {
 public:
  explicit BoundedPool(const HttpLimits& limits)
      : max_waiting_(limits.max_waiting), pool_(limits.threads) {}

  Enqueued enqueue(std::function<void()> serve) override {
    if (waiting_ >= max_waiting_) {
      refusing = true;
      serve();
      refusing = false;
      return static_cast<Enqueued>(true);
    }
    ++waiting_;
    pool_.enqueue([this, serve = std::move(serve)] {
      --waiting_;
      serve();
    });
    return static_cast<Enqueued>(true);
  }
  void shutdown() override { pool_.shutdown(); }

 private:
  const size_t max_waiting_;
  std::atomic<size_t> waiting_{0};
  httplib::ThreadPool pool_;
};

class LimitedServer final : public httplib::Server {
 public:
  explicit LimitedServer(const HttpLimits& limits) : limits_(limits) {
    new_task_queue = [this] { return new BoundedPool(limits_); };
    // httplib's own options share a port that another program has.
    set_socket_options([](int socket) {
      const int on = 1;
      setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    });
  }

 private:
  bool process_and_close_socket(int socket) override {
    bool answered = false;
    if (!refusing) {
      LimitedStream stream(socket, limits_);
      answered = Answer(&LimitedServer::process_request, stream);
      if (answered) stream.Drain();
    }
    close(socket);
    return answered;
  }

  // As httplib 0.11 has it, and as later versions do, with addresses that nobody asks for.
  using Setup = const std::function<void(httplib::Request&)>&;
  using Process = bool (Server::*)(httplib::Stream&, bool, bool&, Setup);
  using ProcessWithAddresses = bool (Server::*)(httplib::Stream&, const std::string&, int,
                                                const std::string&, int, bool, bool&, Setup);
  bool Answer(Process process, httplib::Stream& stream) {
    bool closed = false;
    return (this->*process)(stream, /*close_connection=*/true, closed, nullptr);
  }
  bool Answer(ProcessWithAddresses process, httplib::Stream& stream) {
    bool closed = false;
    return (this->*process)(stream, "", 0, "", 0, /*close_connection=*/true, closed, nullptr);
  }

  const HttpLimits limits_;
};

void Say(int status, const std::string& text, httplib::Response& response) {
  response.status = status;
  response.set_content(absl::StrCat(text, "\n"), kPlainText);
}

void Answer(const HttpHandlers& handlers, const httplib::Request& request,
            httplib::Response& response) {
  const bool metrics = request.path == "/metrics";
  const bool live = request.path == "/v2/health/live";
  if (!metrics && !live && request.path != "/v2/health/ready") {
    return Say(404, "expected /metrics, /v2/health/live or /v2/health/ready", response);
  }
  if (request.method != "GET" && request.method != "HEAD") {
    response.set_header("Allow", "GET, HEAD");
    return Say(405, "expected GET or HEAD", response);
  }
  if (metrics) {
    response.status = 200;
    return response.set_content(handlers.metrics(), Metrics::kContentType);
  }
  if (live) return Say(200, "live", response);
  const std::string reason = handlers.not_ready();
  if (reason.empty()) return Say(200, "ready", response);
  Say(503, absl::StrCat("not ready: ", reason), response);
}

}  // namespace

class HttpEndpoint::Impl {
 public:
  Impl(HttpHandlers handlers, const HttpLimits& limits)
      : handlers_(std::move(handlers)), server_(limits) {
    // Before anything of httplib's own: no body is read, no pattern is matched.
    server_.set_pre_routing_handler(
        [this](const httplib::Request& request, httplib::Response& response) {
          Answer(handlers_, request, response);
          return httplib::Server::HandlerResponse::Handled;
        });
  }
  ~Impl() {
    if (!thread_.joinable()) return;
    server_.stop();
    thread_.join();
  }

  // The port, or -1.
  int Bind(const std::string& host, int port) {
    if (port == 0) return server_.bind_to_any_port(host);
    return server_.bind_to_port(host, port) ? port : -1;
  }
  // False if it cannot listen.
  bool Serve() {
    thread_ = std::thread([this] {
      server_.listen_after_bind();
      ended_ = true;
    });
    // `stop` does nothing before this.
    while (!server_.is_running() && !ended_) std::this_thread::yield();
    return !ended_;
  }

 private:
  const HttpHandlers handlers_;
  LimitedServer server_;
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

absl::StatusOr<std::unique_ptr<HttpEndpoint>> HttpEndpoint::Create(const std::string& listen,
                                                                   HttpHandlers handlers,
                                                                   const HttpLimits& limits) {
  const size_t colon = listen.rfind(':');
  int wanted = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(listen.substr(colon + 1), &wanted)) {
    return absl::InvalidArgumentError(absl::StrCat("expected host:port, got '", listen, "'"));
  }
  std::string host = listen.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  auto impl = std::make_unique<Impl>(std::move(handlers), limits);
  const int port = impl->Bind(host, wanted);
  if (port < 0 || !impl->Serve()) {
    return absl::UnavailableError(absl::StrCat(
        "cannot listen on '", listen,
        "'; is the port taken by another program, or the address not this machine's?"));
  }
  return std::unique_ptr<HttpEndpoint>(
      new HttpEndpoint(std::move(impl), absl::StrCat(listen.substr(0, colon + 1), port)));
}

HttpEndpoint::HttpEndpoint(std::unique_ptr<Impl> impl, std::string address)
    : impl_(std::move(impl)), address_(std::move(address)) {}

HttpEndpoint::~HttpEndpoint() = default;

}  // namespace laplaced
