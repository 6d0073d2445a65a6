#include "formats/sha256.h"

#include <openssl/evp.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/escaping.h"
#include "formats/file_handle.h"

namespace laplaced {
namespace {

constexpr size_t kBlockBytes = size_t{1} << 18;

void Require(bool ok) {
  if (ok) return;
  std::fputs("fatal: OpenSSL does not provide SHA-256\n", stderr);
  std::abort();
}

}  // namespace

struct Sha256::State {
  State() : context(EVP_MD_CTX_new()) {
    Require(context != nullptr);
    Require(EVP_DigestInit_ex(context, EVP_sha256(), nullptr) == 1);
  }
  ~State() { EVP_MD_CTX_free(context); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  EVP_MD_CTX* context;
};

Sha256::Sha256() : state_(std::make_unique<State>()) {}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::Update(const void* data, size_t size) {
  Require(EVP_DigestUpdate(state_->context, data, size) == 1);
}

std::string Sha256::Finish() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  Require(EVP_DigestFinal_ex(state_->context, digest, &size) == 1);
  return std::string(reinterpret_cast<const char*>(digest), size);
}

std::string Sha256Hex(absl::string_view bytes) {
  Sha256 sha;
  sha.Update(bytes);
  return absl::BytesToHexString(sha.Finish());
}

absl::StatusOr<std::string> Sha256File(const std::string& path) {
  absl::StatusOr<OpenedFile> file = OpenRegularFile(path);
  if (!file.ok()) return file.status();
  Sha256 sha;
  std::string block(kBlockBytes, '\0');
  for (int64_t left = file->size; left > 0;) {
    const size_t n = static_cast<size_t>(std::min<int64_t>(left, kBlockBytes));
    absl::Status status = ReadExactly(file->fd.get(), block.data(), n, path);
    if (!status.ok()) return status;
    sha.Update(block.data(), n);
    left -= static_cast<int64_t>(n);
  }
  return absl::BytesToHexString(sha.Finish());
}

}  // namespace laplaced
