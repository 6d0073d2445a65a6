// How the client reaches its server: channel, encryption, token. Internal to the library. Free
// functions; thread-safe.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "client/cpp/options.h"

namespace laplace::client {

// INVALID_ARGUMENT names the option. Does not connect. `own_connection`: one that no other channel
// of the process shares.
absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const std::string& target,
                                                           const ClientOptions& options,
                                                           bool own_connection = false);

// What every call carries along.
void AddToken(const ClientOptions& options, grpc::ClientContext& context);

}  // namespace laplace::client
