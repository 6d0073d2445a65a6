// Who may call what.
//
// Every method of every service asks first, on gRPC's thread, but for health, reflection and the
// probes of the Open Inference Protocol, which answer anybody. A server without tokens lets
// everybody do everything. The token file is read again when it changes; one that cannot be used is
// logged, and the tokens before it stay. Thread-safe.
#pragma once

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "server/rpc/token_table.h"

namespace laplaced {

struct Caller {
  // Whom fairness counts: the name of the token, else of the client's certificate, else the host
  // that the call came from.
  std::string client;
};

class CallGuard {
 public:
  // `tokens` is the path of the token file; empty: no tokens. Errors name the setting.
  static absl::StatusOr<std::unique_ptr<CallGuard>> Create(const std::string& tokens,
                                                           double refresh_seconds);
  ~CallGuard();
  CallGuard(const CallGuard&) = delete;
  CallGuard& operator=(const CallGuard&) = delete;

  // UNAUTHENTICATED without a token that is known, PERMISSION_DENIED with one of a lesser role.
  absl::StatusOr<Caller> Admit(const grpc::ServerContextBase& call, Role needed) const;

  // Looks at the file at once, as the thread does every so often.
  void Refresh();

 private:
  explicit CallGuard(std::string path);
  // Takes the file's tokens if it has changed. Errors leave the tokens as they are.
  absl::Status ReadTable();
  void Loop(double refresh_seconds);

  const std::string path_;
  mutable std::mutex mutex_;
  std::condition_variable stop_changed_;
  bool stop_ = false;
  std::shared_ptr<const TokenTable> table_;  // null without tokens
  std::string seen_;                         // hash of the file as it was last read
  std::string problem_;                      // of the last look at it; empty: none
  std::thread thread_;                       // joinable only with tokens
};

}  // namespace laplaced
