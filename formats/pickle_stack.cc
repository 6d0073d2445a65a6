#include "formats/pickle_stack.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace laplaced {
namespace {

constexpr size_t kMaxMarks = 1000;

absl::Status Error(absl::string_view what) { return absl::InvalidArgumentError(what); }

}  // namespace

uint32_t PickleStack::Push(PickleValue value) {
  stack_.push_back(static_cast<uint32_t>(values_.size()));
  values_.push_back(std::move(value));
  return stack_.back();
}

void PickleStack::PushKind(PickleValue::Kind kind) {
  PickleValue value;
  value.kind = kind;
  Push(std::move(value));
}

void PickleStack::PushInteger(int64_t integer, PickleValue::Kind kind) {
  PickleValue value;
  value.kind = kind;
  value.integer = integer;
  Push(std::move(value));
}

void PickleStack::PushText(absl::string_view text, PickleValue::Kind kind) {
  PickleValue value;
  value.kind = kind;
  value.text = text;
  Push(std::move(value));
}

absl::Status PickleStack::Pop(uint32_t* out) {
  if (stack_.size() <= Floor()) return Error("takes a value where there is none");
  *out = stack_.back();
  stack_.pop_back();
  return absl::OkStatus();
}

absl::Status PickleStack::PopMany(size_t count, std::vector<uint32_t>* out) {
  if (stack_.size() - Floor() < count) return Error("takes more values than there are");
  out->assign(stack_.end() - static_cast<std::ptrdiff_t>(count), stack_.end());
  stack_.resize(stack_.size() - count);
  return absl::OkStatus();
}

absl::Status PickleStack::PopMarked(std::vector<uint32_t>* out) {
  if (marks_.empty()) return Error("closes a bracket that was not opened");
  absl::Status status = PopMany(stack_.size() - marks_.back(), out);
  marks_.pop_back();
  return status;
}

absl::Status PickleStack::Top(PickleValue** out) {
  if (stack_.size() <= Floor()) return Error("changes a value where there is none");
  *out = &values_[stack_.back()];
  return absl::OkStatus();
}

absl::Status PickleStack::Mark() {
  if (marks_.size() >= kMaxMarks) return Error("brackets are nested too deeply");
  marks_.push_back(stack_.size());
  return absl::OkStatus();
}

absl::Status PickleStack::Remember(uint32_t key) {
  if (stack_.size() <= Floor()) return Error("remembers a value where there is none");
  memo_[key] = stack_.back();
  return absl::OkStatus();
}

absl::Status PickleStack::Recall(uint32_t key) {
  const auto found = memo_.find(key);
  if (found == memo_.end()) {
    return Error(absl::StrCat("recalls value ", key, ", which is not known"));
  }
  stack_.push_back(found->second);
  return absl::OkStatus();
}

size_t PickleStack::size() const { return std::max(values_.size(), memo_.size()); }

bool PickleStack::TakeLast(uint32_t* place, std::vector<PickleValue>* values) {
  if (stack_.size() != 1 || !marks_.empty()) return false;
  *place = stack_.back();
  *values = std::move(values_);
  return true;
}

}  // namespace laplaced
