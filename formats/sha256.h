// SHA-256 over bytes that arrive in pieces, and over whole files.
//
// The digest names data sets and guards artifacts. One Sha256 belongs to one thread at a time. It
// cannot fail: should OpenSSL refuse to provide the algorithm at all, the process is stopped with a
// message, because no id and no checksum could be trusted after that.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace laplaced {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void Update(const void* data, size_t size);
  void Update(absl::string_view bytes) { Update(bytes.data(), bytes.size()); }

  // The 32 bytes of the digest. Call once, at the end.
  std::string Finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// 64 lower-case hexadecimal digits.
std::string Sha256Hex(absl::string_view bytes);

// The same over a file, read in blocks. NOT_FOUND if there is none.
absl::StatusOr<std::string> Sha256File(const std::string& path);

}  // namespace laplaced
