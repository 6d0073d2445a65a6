// Certificates for tests, made by the program openssl. Tests that find none should GTEST_SKIP.
#pragma once

#include <cstdlib>
#include <string>

namespace laplaced::test_support {

inline bool HaveOpenSsl() { return std::system("openssl version >/dev/null 2>&1") == 0; }

// An authority in `folder`: NAME.pem and NAME.key. False if it cannot be made.
inline bool MakeAuthority(const std::string& folder, const std::string& name) {
  const std::string at = folder + "/" + name;
  const std::string command =
      "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=" + name + " -keyout " + at +
      ".key -out " + at + ".pem >/dev/null 2>&1";
  return std::system(command.c_str()) == 0;
}

// A certificate NAME.pem with key NAME.key for `host` (and IP 127.0.0.1), signed by `authority`.
inline bool MakeCertificate(const std::string& folder, const std::string& authority,
                            const std::string& name, const std::string& host) {
  const std::string at = folder + "/" + name, by = folder + "/" + authority;
  const std::string command =
      "openssl req -newkey rsa:2048 -nodes -subj /CN=" + host + " -keyout " + at + ".key -out " +
      at + ".csr >/dev/null 2>&1 && printf 'subjectAltName=DNS:" + host + ",IP:127.0.0.1\\n' > " +
      at + ".ext && openssl x509 -req -days 2 -in " + at + ".csr -CA " + by + ".pem -CAkey " + by +
      ".key -CAcreateserial -extfile " + at + ".ext -out " + at + ".pem >/dev/null 2>&1";
  return std::system(command.c_str()) == 0;
}

}  // namespace laplaced::test_support
