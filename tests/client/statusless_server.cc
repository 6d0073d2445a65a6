#include "tests/client/statusless_server.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace laplace::client {
namespace {

// Types and flags of frames, RFC 9113.
constexpr char kData = 0, kHeaders = 1, kRstStream = 3, kSettings = 4, kPing = 6;
constexpr char kAck = 1, kEndStream = 1, kEndHeaders = 4;
constexpr size_t kPrefaceBytes = 24, kFrameHeaderBytes = 9;

// Empty at the end of the connection.
std::string Read(int connection, size_t bytes) {
  std::string data(bytes, '\0');
  for (size_t have = 0; have < bytes;) {
    const ssize_t more = recv(connection, &data[have], bytes - have, 0);
    if (more <= 0) return "";
    have += static_cast<size_t>(more);
  }
  return data;
}

void Send(int connection, char type, char flags, const std::string& stream,
          const std::string& payload) {
  const std::string frame =
      std::string{0, 0, static_cast<char>(payload.size()), type, flags} + stream + payload;
  // A client that is gone is noticed by the next read.
  (void)send(connection, frame.data(), frame.size(), MSG_NOSIGNAL);
}

}  // namespace

StatuslessServer::StatuslessServer(absl::optional<uint8_t> reset_code) : reset_code_(reset_code) {
  listener_ = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (listener_ < 0 || bind(listener_, generic, size) != 0 || listen(listener_, 8) != 0 ||
      getsockname(listener_, generic, &size) != 0) {
    abort();
  }
  address_ = absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
  thread_ = std::thread([this] { Serve(); });
}

StatuslessServer::~StatuslessServer() {
  stopping_ = true;
  shutdown(listener_, SHUT_RDWR);
  if (const int connection = connection_; connection >= 0) shutdown(connection, SHUT_RDWR);
  thread_.join();
  close(listener_);
}

void StatuslessServer::Serve() {
  for (int connection; (connection = accept(listener_, nullptr, nullptr)) >= 0;) {
    connection_ = connection;
    if (!stopping_) ServeConnection(connection);
    connection_ = -1;
    close(connection);
  }
}

void StatuslessServer::ServeConnection(int connection) {
  const std::string whole_connection(4, '\0');
  if (Read(connection, kPrefaceBytes).empty()) return;
  Send(connection, kSettings, 0, whole_connection, "");
  for (;;) {
    const std::string header = Read(connection, kFrameHeaderBytes);
    if (header.empty()) return;
    size_t length = 0;
    for (int i = 0; i < 3; ++i) length = length << 8 | static_cast<uint8_t>(header[i]);
    const std::string payload = Read(connection, length);
    if (payload.size() != length) return;
    const char type = header[3];
    const bool ack = (header[4] & kAck) != 0;
    const std::string stream = header.substr(5);
    if (type == kHeaders) {
      ++calls_;
      if (reset_code_) {
        Send(connection, kRstStream, 0, stream, {0, 0, 0, static_cast<char>(*reset_code_)});
      } else {
        // :status 200, content-type application/grpc, in HPACK.
        Send(connection, kHeaders, kEndHeaders, stream,
             "\x88\x0f\x10\x10"
             "application/grpc");
        if (calls_ % 2 == 0) {
          Send(connection, kData, kEndStream, stream, "");
        } else {  // trailers with one field, x: y
          Send(connection, kHeaders, kEndHeaders | kEndStream, stream, {0, 1, 'x', 1, 'y'});
        }
      }
    } else if (type == kSettings && !ack) {
      Send(connection, kSettings, kAck, whole_connection, "");
    } else if (type == kPing && !ack) {
      Send(connection, kPing, kAck, whole_connection, payload);
    }
  }
}

}  // namespace laplace::client
