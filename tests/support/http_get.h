// HTTP by hand, for tests of the HTTP port: what a client sends and all that comes back.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "formats/file_handle.h"

namespace laplaced::test_support {

// A connection to "127.0.0.1:PORT"; negative if there is none.
inline UniqueFd ConnectTo(const std::string& address) {
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
  UniqueFd client(socket(AF_INET, SOCK_STREAM, 0));
  if (connect(client.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) return UniqueFd(-1);
  return client;
}

// False once the other side is gone.
inline bool SendAll(const UniqueFd& client, const std::string& text) {
  return send(client.get(), text.data(), text.size(), MSG_NOSIGNAL) ==
         static_cast<ssize_t>(text.size());
}

inline std::string ReadToEnd(const UniqueFd& client) {
  std::string all;
  char buffer[4096];
  for (ssize_t n = 0; (n = read(client.get(), buffer, sizeof buffer)) > 0;) {
    all.append(buffer, static_cast<size_t>(n));
  }
  return all;
}

struct HttpAnswer {
  int status = 0;  // 0: there was no answer
  std::string head;
  std::string body;
};

inline HttpAnswer HttpRequest(const std::string& address, const std::string& request) {
  const UniqueFd client = ConnectTo(address);
  HttpAnswer answer;
  if (!SendAll(client, request)) return answer;
  const std::string all = ReadToEnd(client);
  const size_t end = all.find("\r\n\r\n");
  if (all.rfind("HTTP/1.1 ", 0) != 0 || end == std::string::npos) return answer;
  answer.status = std::stoi(all.substr(9));
  answer.head = all.substr(0, end);
  answer.body = all.substr(end + 4);
  return answer;
}

inline HttpAnswer HttpGet(const std::string& address, const std::string& path) {
  return HttpRequest(address, "GET " + path + " HTTP/1.1\r\nHost: test\r\n\r\n");
}

}  // namespace laplaced::test_support
