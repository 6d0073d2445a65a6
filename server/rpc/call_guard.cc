#include "server/rpc/call_guard.h"

#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/file_handle.h"
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
  if (tokens.empty()) return std::unique_ptr<CallGuard>(new CallGuard(""));
  std::unique_ptr<CallGuard> guard(new CallGuard(tokens));
  if (absl::Status read = guard->ReadTable(); !read.ok()) {
    return absl::Status(read.code(), absl::StrCat("tokens: ", read.message()));
  }
  guard->thread_ =
      std::thread([raw = guard.get(), refresh_seconds] { raw->Loop(refresh_seconds); });
  return guard;
}

CallGuard::CallGuard(std::string path) : path_(std::move(path)) {}

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

absl::Status CallGuard::ReadTable() {
  // Both of the same bytes: a file that changes in between, or cannot be read for a moment, is
  // looked at again.
  const absl::StatusOr<std::string> text = ReadWholeFile(path_, kMaxTokenFileBytes);
  if (!text.ok()) return text.status();
  const std::string hash = Sha256Hex(*text);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (seen_ == hash) return absl::OkStatus();
    seen_ = hash;
  }
  absl::StatusOr<TokenTable> table = TokenTable::Parse(*text);
  if (!table.ok()) {
    return absl::Status(table.status().code(), absl::StrCat(path_, ": ", table.status().message()));
  }
  LogInfo("read the tokens", {{"tokens", table->size()}});
  std::lock_guard<std::mutex> lock(mutex_);
  table_ = std::make_shared<const TokenTable>(*std::move(table));
  return absl::OkStatus();
}

void CallGuard::Refresh() {
  const absl::Status read = ReadTable();
  const std::string problem(read.message());
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (problem == problem_) return;
    problem_ = problem;
  }
  if (read.ok()) return;
  LogError("the changed token file cannot be used; the tokens before it stay valid",
           {{"error", problem}});
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
