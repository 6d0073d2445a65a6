// A run of the load generator (load_generator.h) with calls of any unary method, as bytes.
//
// Requests are serialised once and answers are not copied, so that the generator takes as little as
// possible from a server on the same machine. Internal to the library, and for benchmarks. Blocks
// until the last call has ended; thread-safe.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cpp/load_generator.h"

namespace laplace::client {

// What an answer says of the server's own time.
struct ServerSeconds {
  double queue = 0;
  double compute = 0;
};

struct LoadMethod {
  std::string path;                        // "/package.Service/Method"
  std::vector<grpc::ByteBuffer> requests;  // taken in turn; at least one
  // Empty: answers do not tell. Called from several threads.
  std::function<ServerSeconds(grpc::ByteBuffer& answer)> server_seconds;
};

// Errors as those of GenerateLoad.
absl::StatusOr<LoadResult> RunLoad(const std::string& target, const ClientOptions& connection,
                                   const LoadMethod& method, const LoadOptions& options);

}  // namespace laplace::client
