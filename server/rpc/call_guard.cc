#include "server/rpc/call_guard.h"

namespace laplaced {
namespace {

// "ipv4:10.0.0.7:51234" -> "ipv4:10.0.0.7"; all of "unix:...".
std::string HostOf(const std::string& peer) {
  if (peer.rfind("ipv", 0) != 0) return peer;
  return peer.substr(0, peer.rfind(':'));
}

}  // namespace

absl::StatusOr<Caller> CallGuard::Admit(const grpc::ServerContextBase& call, Role) const {
  return Caller{HostOf(call.peer())};
}

}  // namespace laplaced
