#include "server/rpc/server_credentials.h"

#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/file_handle.h"

namespace laplaced {
namespace {

constexpr int64_t kMaxBytes = 1 << 20;

std::string OpenSslReason() {
  const unsigned long code = ERR_get_error();
  ERR_clear_error();
  const char* reason = ERR_reason_error_string(code);
  return reason == nullptr ? "unknown reason" : reason;
}

absl::Status Bad(const char* setting, const std::string& path, const std::string& problem) {
  return absl::InvalidArgumentError(absl::StrCat(setting, ": '", path, "' ", problem));
}

absl::Status CheckReadable(const char* setting, const std::string& path) {
  const absl::StatusOr<std::string> text = ReadWholeFile(path, kMaxBytes);
  if (text.ok()) return absl::OkStatus();
  return Bad(setting, path, absl::StrCat("cannot be read: ", text.status().message()));
}

}  // namespace

absl::Status CheckTlsFiles(const TlsFiles& files) {
  absl::Status status = CheckReadable("tls_cert", files.cert);
  if (status.ok()) status = CheckReadable("tls_key", files.key);
  if (status.ok() && !files.client_ca.empty()) {
    status = CheckReadable("tls_client_ca", files.client_ca);
  }
  if (!status.ok()) return status;
  ERR_clear_error();
  const std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)> context(SSL_CTX_new(TLS_server_method()),
                                                             SSL_CTX_free);
  if (SSL_CTX_use_certificate_chain_file(context.get(), files.cert.c_str()) != 1) {
    return Bad("tls_cert", files.cert,
               absl::StrCat("holds no certificate in PEM form (", OpenSslReason(), ")"));
  }
  const X509* certificate = SSL_CTX_get0_certificate(context.get());
  if (X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0) {
    return Bad("tls_cert", files.cert, "holds a certificate that has expired");
  }
  if (SSL_CTX_use_PrivateKey_file(context.get(), files.key.c_str(), SSL_FILETYPE_PEM) != 1) {
    return Bad("tls_key", files.key,
               absl::StrCat("holds no private key of the certificate in PEM form (",
                            OpenSslReason(), ")"));
  }
  if (!files.client_ca.empty() &&
      SSL_CTX_load_verify_locations(context.get(), files.client_ca.c_str(), nullptr) != 1) {
    return Bad("tls_client_ca", files.client_ca,
               absl::StrCat("holds no certificates in PEM form (", OpenSslReason(), ")"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsFiles& files, double refresh_seconds) {
  if (files.cert.empty()) return grpc::InsecureServerCredentials();
  const absl::Status valid = CheckTlsFiles(files);
  if (!valid.ok()) return valid;
  const auto seconds = static_cast<unsigned>(std::max(1.0, std::ceil(refresh_seconds)));
  const auto watcher = files.client_ca.empty()
                           ? std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
                                 files.key, files.cert, seconds)
                           : std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
                                 files.key, files.cert, files.client_ca, seconds);
  grpc::experimental::TlsServerCredentialsOptions options(watcher);
  options.watch_identity_key_cert_pairs();
  if (!files.client_ca.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(options);
}

}  // namespace laplaced
