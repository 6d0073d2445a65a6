#include "server/rpc/status_mapping.h"

#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <grpcpp/support/error_details.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/model/field_error.h"
#include "server/observe/log.h"
#include "server/rpc/client_text.h"
#include "server/serving/retry_after.h"

namespace laplaced {
namespace {

// A text is percent-encoded in one trailer and repeated twice, in base64, in another; together they
// stay below 8 KiB.
constexpr size_t kMaxTextBytes = 800;
constexpr size_t kMaxFieldBytes = 100;

std::string Cut(absl::string_view text, size_t limit) {
  if (text.size() <= limit) return std::string(text);
  // Back to the first byte of the UTF-8 character at the limit.
  while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xc0) == 0x80) --limit;
  return absl::StrCat(text.substr(0, limit), "...");
}

grpc::Status HiddenError(const absl::Status& status, const std::string& method) {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  const std::string id = absl::StrFormat("%08x", static_cast<uint32_t>(generator()));
  LogError(absl::StrCat("error ", id, " in ", method, ": ", status.ToString()));
  return grpc::Status(
      grpc::StatusCode::INTERNAL,
      absl::StrCat("internal error ", id, "; the server's log has the details under this number"));
}

// The text of an error about `field`, without the field.
absl::string_view WithoutField(absl::string_view message, const std::string& field) {
  const std::string prefix = absl::StrCat(field, ": ");
  if (absl::StartsWith(message, prefix)) message.remove_prefix(prefix.size());
  return message;
}

void AddBadRequest(const std::string& field, absl::string_view message, google::rpc::Status* to) {
  google::rpc::BadRequest details;
  auto* violation = details.add_field_violations();
  violation->set_field(Cut(field, kMaxFieldBytes));
  violation->set_description(Cut(WithoutField(message, field), kMaxTextBytes));
  to->add_details()->PackFrom(details);
}

void AddRetryInfo(double seconds, google::rpc::Status* to) {
  google::rpc::RetryInfo details;
  const double whole = std::floor(seconds);
  details.mutable_retry_delay()->set_seconds(static_cast<int64_t>(whole));
  details.mutable_retry_delay()->set_nanos(static_cast<int32_t>((seconds - whole) * 1e9));
  to->add_details()->PackFrom(details);
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status, const std::string& method) {
  if (status.ok()) return grpc::Status::OK;
  if (status.code() == absl::StatusCode::kInternal || status.code() == absl::StatusCode::kUnknown) {
    return HiddenError(status, method);
  }
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  const std::string text = ClientText(status.message());
  details.set_message(Cut(text, kMaxTextBytes));
  const std::string field = FieldOf(status);
  if (absl::IsInvalidArgument(status) && !field.empty()) {
    AddBadRequest(field, text, &details);
  }
  if (const auto seconds = RetryAfter(status)) AddRetryInfo(*seconds, &details);

  // Codes of absl::Status and gRPC are the same numbers.
  const auto code = static_cast<grpc::StatusCode>(status.code());
  if (details.details_size() == 0) return grpc::Status(code, details.message());
  grpc::Status result;
  grpc::SetErrorDetails(details, &result);
  return result;
}

absl::Status WithField(absl::Status status, const std::string& field) {
  if (absl::IsInvalidArgument(status) && FieldOf(status).empty()) {
    status.SetPayload(kFieldPayloadUrl, absl::Cord(field));
  }
  return status;
}

absl::Status RenameField(const absl::Status& status, const std::string& field) {
  if (!absl::IsInvalidArgument(status)) return status;
  return FieldError(field, WithoutField(status.message(), FieldOf(status)));
}

int ToOperationErrorCode(int absl_code) {
  constexpr int kLargestCode = static_cast<int>(absl::StatusCode::kUnauthenticated);
  const bool known = absl_code >= 0 && absl_code <= kLargestCode;
  if (!known || absl_code == static_cast<int>(absl::StatusCode::kUnknown)) {
    return static_cast<int>(absl::StatusCode::kInternal);
  }
  return absl_code;
}

}  // namespace laplaced
