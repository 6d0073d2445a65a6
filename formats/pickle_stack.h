// The stack that the opcodes of a pickle work on, its open brackets (marks), and the values that it
// remembers (the memo).
//
// Internal to this folder; torch_pickle.h says what is promised. Values lie in one table, and the
// stack holds their places. Nothing is taken from below the last mark. Errors: INVALID_ARGUMENT,
// which does not say where. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "formats/torch_pickle.h"

namespace laplaced {

class PickleStack {
 public:
  // A new value on top; its place.
  uint32_t Push(PickleValue value);
  void PushKind(PickleValue::Kind kind);
  void PushInteger(int64_t integer, PickleValue::Kind kind = PickleValue::Kind::kInteger);
  void PushText(absl::string_view text, PickleValue::Kind kind = PickleValue::Kind::kText);
  // A value that is in the table.
  void PushAgain(uint32_t place) { stack_.push_back(place); }

  absl::Status Pop(uint32_t* out);
  // The last `count` values, in order.
  absl::Status PopMany(size_t count, std::vector<uint32_t>* out);
  // Those behind the last mark, and the mark.
  absl::Status PopMarked(std::vector<uint32_t>* out);
  // Valid until the next Push.
  absl::Status Top(PickleValue** out);

  // At most 1000 at a time.
  absl::Status Mark();

  // The value on top, under a key or under the number of those that are known; and on top again.
  absl::Status Remember(uint32_t key);
  absl::Status RememberNext() { return Remember(static_cast<uint32_t>(memo_.size())); }
  absl::Status Recall(uint32_t key);

  std::vector<PickleValue>& values() { return values_; }
  // Of the table or the memo, whichever is larger.
  size_t size() const;

  // Gives the table away if one value is on the stack and no mark; its place.
  bool TakeLast(uint32_t* place, std::vector<PickleValue>* values);

 private:
  // How far down the stack may be taken from.
  size_t Floor() const { return marks_.empty() ? 0 : marks_.back(); }

  std::vector<PickleValue> values_;
  std::vector<uint32_t> stack_;
  std::vector<size_t> marks_;  // sizes of the stack
  std::unordered_map<uint32_t, uint32_t> memo_;
};

}  // namespace laplaced
