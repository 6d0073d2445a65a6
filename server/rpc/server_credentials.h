// The gRPC port's TLS. Free functions.
#pragma once

#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace laplaced {

// Paths of PEM files. Without `cert` the port speaks plain text.
struct TlsFiles {
  std::string cert;       // the server's certificate, then those of the authorities between
  std::string key;        // its private key
  std::string client_ca;  // authorities of client certificates; empty: none is asked for
};

// OK if the files can be read, hold what they should, and key and certificate belong together.
// INVALID_ARGUMENT names the setting (tls_cert, tls_key, tls_client_ca) and the file.
absl::Status CheckTlsFiles(const TlsFiles& files);

// Credentials that look for other files in place of these every `refresh_seconds`: connections
// made from then on use them. Replace certificate and key together (rename, or a link that is
// switched); files that cannot be read are passed over, and the ones before them stay in use.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsFiles& files, double refresh_seconds);

}  // namespace laplaced
