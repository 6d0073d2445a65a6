#include "client/cpp/grpc_status.h"

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/status.pb.h"

namespace laplace::client {
namespace {

// The call ended without a status: a proxy does so when the server behind it is gone in the middle
// of an answer. If the stream was reset, gRPC makes CANCELLED or INTERNAL of it, which a server
// that means them says with a status; else UNKNOWN, which the server never says.
bool EndedWithoutStatus(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::UNKNOWN:
      return true;
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::INTERNAL:
      return absl::StrContains(status.error_message(), "RST_STREAM");
    default:
      return false;
  }
}

}  // namespace

absl::Status FromGrpcStatus(const grpc::Status& status, const std::string& target,
                            absl::Duration timeout) {
  if (status.ok()) return absl::OkStatus();
  std::string message = status.error_message();
  const grpc::StatusCode code =
      EndedWithoutStatus(status) ? grpc::StatusCode::UNAVAILABLE : status.error_code();
  if (code == grpc::StatusCode::UNAVAILABLE) {
    const bool unreachable = absl::StartsWith(message, "failed to connect") ||
                             absl::StartsWith(message, "DNS resolution failed");
    message = unreachable ? absl::StrCat("no server can be reached at ", target,
                                         "; is laplaced running there? (", message, ")")
                          : absl::StrCat("the server at ", target, " is unavailable: ", message);
  } else if (code == grpc::StatusCode::DEADLINE_EXCEEDED && message == "Deadline Exceeded") {
    message = absl::StrCat("no answer from ", target, " within ", absl::FormatDuration(timeout));
  }
  absl::Status result(static_cast<absl::StatusCode>(code), message);
  google::rpc::Status details;
  if (!status.error_details().empty() && details.ParseFromString(status.error_details())) {
    for (const google::protobuf::Any& detail : details.details()) {
      result.SetPayload(detail.type_url(), absl::Cord(detail.value()));
    }
  }
  return result;
}

}  // namespace laplace::client
