#include "server/rpc/enum_words.h"

#include <google/protobuf/descriptor.h>

#include "absl/strings/str_cat.h"
#include "server/model/field_error.h"

namespace laplaced {

absl::Status UnknownNumber(const std::string& field,
                           const google::protobuf::EnumDescriptor& descriptor,
                           const std::vector<int>& known, int number) {
  std::string names;
  for (size_t i = 0; i < known.size(); ++i) {
    const char* separator = i == 0 ? "" : i + 1 < known.size() ? ", " : " or ";
    absl::StrAppend(&names, separator, descriptor.FindValueByNumber(known[i])->name());
  }
  return FieldError(field, absl::StrCat("expected ", names, ", got the unknown number ", number));
}

}  // namespace laplaced
