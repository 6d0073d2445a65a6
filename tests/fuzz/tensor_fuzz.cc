// Tensors of requests: a view must lie inside its message. The input is a laplace.v1.Tensor on the
// wire.
#include "server/rpc/tensor_codec.h"
#include "tests/fuzz/heap_bound.h"
#include "tests/fuzz/target.h"
#include "tests/fuzz/wire.h"

namespace laplaced::fuzz {
namespace {

namespace v1 = laplace::v1;

constexpr size_t kMaxBytes = 4096;

void Run(absl::string_view input) {
  v1::Tensor tensor;
  if (!ParseWire(input, &tensor)) return;
  absl::StatusOr<ArrayView> view;
  {
    const HeapBound bound(input.size(), 0, 4 << 10);  // no copy of the values
    view = ViewTensor(tensor, "inputs");
  }
  RequireStatus(view.status(), {absl::StatusCode::kInvalidArgument});
  if (!view.ok()) return;
  const auto bytes = static_cast<size_t>(NumBytes(view->dtype, view->shape).value());
  const absl::string_view raw = tensor.raw_values();
  const auto typed = static_cast<size_t>(tensor.float32_values_size()) * sizeof(float);
  const bool in_raw = view->data == raw.data() && bytes == raw.size();
  Require(in_raw || (view->data == tensor.float32_values().data() && bytes == typed),
          "a view that is not the values of its message");
}

std::vector<std::string> Seeds() {
  v1::Tensor typed;
  FillTensor({1, 2, 3, 4, 5, 6}, {2, 3}, &typed);
  v1::Tensor raw;
  FillInt64Tensor({1, -2, 3}, {3}, &raw);
  v1::Tensor pixels;
  pixels.set_dtype(v1::DATA_TYPE_UINT8);
  for (const int64_t size : {1, 2, 2}) pixels.add_shape(size);
  pixels.set_raw_values("abcd");
  return {typed.SerializeAsString(), raw.SerializeAsString(), pixels.SerializeAsString()};
}

LAPLACED_FUZZ_TARGET(tensor, kMaxBytes, Run, Seeds);

}  // namespace
}  // namespace laplaced::fuzz
