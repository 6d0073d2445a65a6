#include "server/rpc/call_guard.h"

#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/sha256.h"
#include "server/observe/log.h"

namespace laplaced {
namespace {

constexpr char kHeader[] = "authorization";
constexpr absl::string_view kScheme = "Bearer ";

// "ipv4:10.0.0.7:51234" -> "ipv4:10.0.0.7"; all of "unix:...".
std::string HostOf(const std::string& peer) {
  if (peer.rfind("ipv", 0) != 0) return peer;
  return peer.substr(0, peer.rfind(':'));
}

std::string ClientOf(const grpc::ServerContextBase& call) {
  const auto auth = call.auth_context();
  if (auth != nullptr && auth->IsPeerAuthenticated()) {
    const auto names = auth->GetPeerIdentity();
    if (!names.empty()) {
      return absl::StrCat("certificate:", absl::string_view(names[0].data(), names[0].size()));
    }
  }
  return HostOf(call.peer());
}

// Empty if there is none.
absl::string_view TokenOf(const grpc::ServerContextBase& call) {
  const auto found = call.client_metadata().find(kHeader);
  if (found == call.client_metadata().end()) return {};
  absl::string_view value(found->second.data(), found->second.size());
  if (!absl::StartsWithIgnoreCase(value, kScheme)) return {};
  return value.substr(kScheme.size());
}

absl::Status Unauthenticated() {
  return absl::UnauthenticatedError(
      "this server asks for a token that it knows: send the metadata 'authorization: Bearer "
      "<token>' (laplace --token-file)");
}

}  // namespace

absl::StatusOr<std::unique_ptr<CallGuard>> CallGuard::Create(const std::string& tokens,
                                                             double refresh_seconds) {
  if (tokens.empty()) return std::unique_ptr<CallGuard>(new CallGuard("", nullptr, 0));
  absl::StatusOr<TokenTable> table = TokenTable::Read(tokens);
  if (!table.ok()) {
    return absl::Status(table.status().code(), absl::StrCat("tokens: ", table.status().message()));
  }
  return std::unique_ptr<CallGuard>(new CallGuard(
      tokens, std::make_shared<const TokenTable>(*std::move(table)), refresh_seconds));
}

CallGuard::CallGuard(std::string path, std::shared_ptr<const TokenTable> table,
                     double refresh_seconds)
    : path_(std::move(path)), table_(std::move(table)) {
  if (table_ == nullptr) return;
  Refresh();
  thread_ = std::thread([this, refresh_seconds] { Loop(refresh_seconds); });
}

CallGuard::~CallGuard() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  stop_changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

absl::StatusOr<Caller> CallGuard::Admit(const grpc::ServerContextBase& call, Role needed) const {
  if (path_.empty()) return Caller{ClientOf(call)};
  std::shared_ptr<const TokenTable> table;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    table = table_;
  }
  const absl::string_view token = TokenOf(call);
  const TokenTable::Holder* holder = token.empty() ? nullptr : table->Find(token);
  if (holder == nullptr) return Unauthenticated();
  if (needed == Role::kAdmin && holder->role != Role::kAdmin) {
    return absl::PermissionDeniedError(
        "the token has the role predict, and this call needs the role admin");
  }
  return Caller{absl::StrCat("token:", holder->name)};
}

void CallGuard::Refresh() {
  const absl::StatusOr<std::string> now = Sha256File(path_);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const std::string state = now.ok() ? *now : "unreadable";
    if (seen_ == state) return;
    const bool first = seen_.empty();
    seen_ = state;
    if (first) return;
  }
  absl::StatusOr<TokenTable> table = TokenTable::Read(path_);
  if (!table.ok()) {
    LogError("the changed token file cannot be used; the tokens before it stay valid",
             {{"error", std::string(table.status().message())}});
    return;
  }
  LogInfo("read the tokens again", {{"tokens", table->size()}});
  std::lock_guard<std::mutex> lock(mutex_);
  table_ = std::make_shared<const TokenTable>(*std::move(table));
}

void CallGuard::Loop(double refresh_seconds) {
  std::unique_lock<std::mutex> lock(mutex_);
  const std::chrono::duration<double> pause(refresh_seconds);
  while (!stop_changed_.wait_for(lock, pause, [this] { return stop_; })) {
    lock.unlock();
    Refresh();
    lock.lock();
  }
}

}  // namespace laplaced
