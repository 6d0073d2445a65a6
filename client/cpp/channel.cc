#include "client/cpp/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/file_handle.h"

namespace laplace::client {
namespace {

bool IsLocal(const std::string& target) {
  for (const char* local : {"unix:", "127.", "localhost:", "[::1]:"}) {
    if (absl::StartsWith(target, local)) return true;
  }
  return target == "localhost";
}

// Into `text` if there is a path.
absl::Status ReadPem(const char* option, const std::string& path, std::string& text) {
  constexpr int64_t kMaxBytes = 1 << 20;
  if (path.empty()) return absl::OkStatus();
  auto read = laplaced::ReadWholeFile(path, kMaxBytes);
  if (!read.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(option, ": ", read.status().message()));
  }
  if (!absl::StrContains(*read, "-----BEGIN ")) {
    return absl::InvalidArgumentError(
        absl::StrCat(option, ": expected a file in PEM form, got '", path, "'"));
  }
  text = *std::move(read);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeCredentials(const TlsOptions& tls) {
  const bool files = !tls.ca_cert_file.empty() || !tls.client_cert_file.empty() ||
                     !tls.client_key_file.empty() || !tls.server_name.empty();
  if (!tls.enabled) {
    if (!files) return grpc::InsecureChannelCredentials();
    return absl::InvalidArgumentError("tls: expected enabled, because other options of it are set");
  }
  if (tls.client_cert_file.empty() != tls.client_key_file.empty()) {
    return absl::InvalidArgumentError(
        "tls: expected both client_cert_file and client_key_file, or neither");
  }
  grpc::SslCredentialsOptions options;
  absl::Status status = ReadPem("tls.ca_cert_file", tls.ca_cert_file, options.pem_root_certs);
  if (status.ok()) {
    status = ReadPem("tls.client_cert_file", tls.client_cert_file, options.pem_cert_chain);
  }
  if (status.ok()) {
    status = ReadPem("tls.client_key_file", tls.client_key_file, options.pem_private_key);
  }
  if (!status.ok()) return status;
  return grpc::SslCredentials(options);
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const std::string& target,
                                                           const ClientOptions& options,
                                                           bool own_connection) {
  const auto credentials = MakeCredentials(options.tls);
  if (!credentials.ok()) return credentials.status();
  if (!options.token.empty() && !options.tls.enabled && !IsLocal(target)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "token: expected TLS to ", target,
        ", because everybody on the way could read the token; use tls.enabled (laplace --tls)"));
  }
  for (const char c : options.token) {
    if (c > ' ' && c < 0x7f) continue;
    return absl::InvalidArgumentError("token: expected visible ASCII characters only");
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(options.max_receive_bytes);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 5 * 1000);
  // A peer that is gone without a word ends the calls that wait for it. The server permits it.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30 * 1000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20 * 1000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // gRPC 1.51 ends the process in its own retries when a call ends without a status. Ours are
  // RetryPolicy's.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  if (!options.tls.server_name.empty()) {
    arguments.SetSslTargetNameOverride(options.tls.server_name);
  }
  if (own_connection) arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(target, *credentials, arguments);
}

void AddToken(const ClientOptions& options, grpc::ClientContext& context) {
  if (options.token.empty()) return;
  context.AddMetadata("authorization", absl::StrCat("Bearer ", options.token));
}

}  // namespace laplace::client
