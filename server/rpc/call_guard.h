// Who may call what.
//
// Every method of every service but health asks first, on gRPC's thread. Thread-safe.
#pragma once

#include <grpcpp/grpcpp.h>

#include <string>

#include "absl/status/statusor.h"

namespace laplaced {

enum class Role {
  kPredict,  // predictions, scores, and looking at models, posteriors and operations
  kAdmin     // everything
};

struct Caller {
  // Whom fairness counts: the name of the token, else of the client's certificate, else the host
  // that the call came from.
  std::string client;
};

class CallGuard {
 public:
  // UNAUTHENTICATED without valid credentials, PERMISSION_DENIED with those of a lesser role.
  absl::StatusOr<Caller> Admit(const grpc::ServerContextBase& call, Role needed) const;
};

}  // namespace laplaced
