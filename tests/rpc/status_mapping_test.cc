#include "server/rpc/status_mapping.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/model/field_error.h"
#include "server/rpc/client_text.h"
#include "server/serving/retry_after.h"
#include "tests/support/test_server.h"

namespace laplaced {
namespace {

using grpc::StatusCode;
using test_support::BadFieldOf;
using test_support::DetailOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(StatusMappingTest, KeepsEveryCodeButThoseThatHide) {
  for (int code = 1; code <= 16; ++code) {
    const auto absl_code = static_cast<absl::StatusCode>(code);
    const grpc::Status status = ToGrpcStatus(absl::Status(absl_code, "told"), "Test");
    if (absl_code == absl::StatusCode::kUnknown || absl_code == absl::StatusCode::kInternal) {
      EXPECT_EQ(status.error_code(), StatusCode::INTERNAL);
      EXPECT_THAT(status.error_message(), Not(HasSubstr("told")));
    } else {
      EXPECT_EQ(static_cast<int>(status.error_code()), code);
      EXPECT_EQ(status.error_message(), "told");
    }
  }
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus(), "Test").ok());
}

TEST(StatusMappingTest, FieldBecomesABadRequestWithoutRepeatingItself) {
  const grpc::Status status =
      ToGrpcStatus(FieldError("inputs.shape", "expected [2], got [3]"), "Test");
  EXPECT_EQ(status.error_message(), "inputs.shape: expected [2], got [3]");
  const auto details = DetailOf<google::rpc::BadRequest>(status);
  ASSERT_EQ(details.field_violations_size(), 1);
  EXPECT_EQ(details.field_violations(0).field(), "inputs.shape");
  EXPECT_EQ(details.field_violations(0).description(), "expected [2], got [3]");
  google::rpc::Status whole;
  ASSERT_TRUE(whole.ParseFromString(status.error_details()));
  EXPECT_EQ(whole.code(), static_cast<int>(StatusCode::INVALID_ARGUMENT));
  EXPECT_EQ(whole.message(), status.error_message());
}

TEST(StatusMappingTest, RetryTimeBecomesARetryInfo) {
  const absl::Status busy = absl::ResourceExhaustedError("busy");
  const auto delay_of = [&](double seconds) {
    return DetailOf<google::rpc::RetryInfo>(ToGrpcStatus(WithRetryAfter(busy, seconds), "Test"))
        .retry_delay();
  };
  EXPECT_EQ(delay_of(2.5).seconds(), 2);
  EXPECT_EQ(delay_of(2.5).nanos(), 500000000);
  EXPECT_EQ(delay_of(-1).seconds(), 0);
  EXPECT_EQ(delay_of(1e30).seconds(), 24 * 3600);
  EXPECT_EQ(ToGrpcStatus(busy, "Test").error_details(), "");
}

TEST(StatusMappingTest, PathsBeginWithinAHiddenFolder) {
  HideFolder("/srv/hidden registry//");
  HideFolder("relative");
  HideFolder("/");
  HideFolder(".");
  const std::pair<const char*, const char*> cases[] = {
      {"cannot write /srv/hidden registry/datasets/a: full", "cannot write datasets/a: full"},
      {"/srv/hidden registry/a and '/srv/hidden registry/b'", "a and 'b'"},
      {"cannot open relative/operations/x.json", "cannot open operations/x.json"},
      {"/srv/hidden registry2/a, /data/relative/a, ./a and /a", nullptr},
      {"/srv/hidden registry", nullptr},
      {"", nullptr}};
  for (const auto& [text, expected] : cases) {
    EXPECT_EQ(ClientText(text), expected == nullptr ? text : expected);
    const grpc::Status status = ToGrpcStatus(absl::UnavailableError(text), "Test");
    EXPECT_EQ(status.error_message(), expected == nullptr ? text : expected);
  }
  const grpc::Status bad =
      ToGrpcStatus(FieldError("id", "cannot open relative/x: it is damaged"), "Test");
  EXPECT_EQ(bad.error_message(), "id: cannot open x: it is damaged");
  EXPECT_EQ(DetailOf<google::rpc::BadRequest>(bad).field_violations(0).description(),
            "cannot open x: it is damaged");
}

TEST(StatusMappingTest, LongTextsAreCutBetweenCharacters) {
  std::string text;
  for (int i = 0; i < 3000; ++i) text += "\xc3\xa4";
  const grpc::Status status = ToGrpcStatus(FieldError(text, text), "Test");
  EXPECT_LT(status.error_message().size(), 1000u);
  EXPECT_LT(status.error_details().size(), 3000u);
  google::rpc::Status whole;
  ASSERT_TRUE(whole.ParseFromString(status.error_details())) << "cut inside a character";
}

TEST(StatusMappingTest, FieldsCanBeAddedAndRenamed) {
  const absl::Status plain = absl::InvalidArgumentError("bad");
  EXPECT_EQ(FieldOf(WithField(plain, "a")), "a");
  EXPECT_EQ(FieldOf(WithField(FieldError("b", "bad"), "a")), "b");
  EXPECT_EQ(FieldOf(WithField(absl::NotFoundError("none"), "a")), "");
  EXPECT_EQ(RenameField(FieldError("b", "bad"), "a"), FieldError("a", "bad"));
  EXPECT_EQ(RenameField(plain, "a"), FieldError("a", "bad"));
  EXPECT_EQ(RenameField(absl::NotFoundError("none"), "a"), absl::NotFoundError("none"));
}

TEST(StatusMappingTest, OperationErrorCodesAreNeverUnknown) {
  EXPECT_EQ(ToOperationErrorCode(static_cast<int>(absl::StatusCode::kUnknown)), 13);
  EXPECT_EQ(ToOperationErrorCode(-1), 13);
  EXPECT_EQ(ToOperationErrorCode(99), 13);
  EXPECT_EQ(ToOperationErrorCode(5), 5);
}

}  // namespace
}  // namespace laplaced
