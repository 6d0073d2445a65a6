#include "server/rpc/request_checks.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "server/model/field_error.h"
#include "server/registry/repository.h"
#include "server/rpc/status_mapping.h"

namespace laplaced {
namespace {

constexpr size_t kMaxIdBytes = 128;

}  // namespace

absl::Status CheckModel(const std::string& model_field, const std::string& model, int64_t version) {
  if (model.empty()) {
    return FieldError(model_field, "expected the name of a model, got an empty text");
  }
  const absl::Status name = ValidateName(model_field, model);
  if (!name.ok()) return WithField(name, model_field);
  if (version < 0) {
    return FieldError(
        "version", absl::StrCat("expected a positive number, or 0 for the highest, got ", version));
  }
  return absl::OkStatus();
}

absl::Status CheckId(const std::string& field, const std::string& id, const std::string& what) {
  if (id.empty()) {
    return FieldError(field, absl::StrCat("expected the id of ", what, ", got an empty text"));
  }
  if (id.size() > kMaxIdBytes) {
    return FieldError(field, absl::StrCat("expected the id of ", what, ", at most ", kMaxIdBytes,
                                          " characters, got ", id.size()));
  }
  return absl::OkStatus();
}

absl::Status CheckNotNegative(const std::string& field, int64_t value) {
  if (value >= 0) return absl::OkStatus();
  return FieldError(field,
                    absl::StrCat("expected a positive number, or 0 for the default, got ", value));
}

absl::Status CheckPositive(const std::string& field, double value) {
  if (std::isfinite(value) && value > 0) return absl::OkStatus();
  return FieldError(field, absl::StrCat("expected a finite number above 0, got ", value));
}

absl::Status CheckBelow(const std::string& field, double value, double limit) {
  if (value >= 0 && value < limit) return absl::OkStatus();
  return FieldError(field, absl::StrCat("expected a number above 0 and below ", limit,
                                        ", or 0 for the default, got ", value));
}

}  // namespace laplaced
