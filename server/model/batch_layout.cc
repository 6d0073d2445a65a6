#include "server/model/batch_layout.h"

#include <vector>

namespace laplaced {

BatchLayout LayoutOf(ExampleOrder order, int64_t leading) {
  if (order == ExampleOrder::kMajor) return BatchLayout::kMajor;
  return leading >= 2 ? BatchLayout::kSecond : BatchLayout::kMinor;
}

bool HoldsExamples(at::IntArrayRef sizes, int64_t examples, BatchLayout layout) {
  if (layout == BatchLayout::kSecond) return sizes.size() >= 2 && sizes[1] == examples;
  return !sizes.empty() && sizes[0] > 0 && sizes[0] % examples == 0;
}

at::Tensor ByExample(const at::Tensor& t, int64_t examples, BatchLayout layout) {
  TORCH_CHECK(HoldsExamples(t.sizes(), examples, layout), "expected ", examples,
              " examples in a tensor of shape ", t.sizes());
  if (layout == BatchLayout::kSecond) return t.transpose(0, 1);
  if (t.size(0) == examples) return t;
  const int64_t rows = t.size(0) / examples;
  std::vector<int64_t> shape = t.sizes().vec();
  shape.erase(shape.begin());
  const bool major = layout == BatchLayout::kMajor;
  shape.insert(shape.begin(), {major ? examples : rows, major ? rows : examples});
  const at::Tensor grouped = t.reshape(shape);
  return major ? grouped : grouped.transpose(0, 1);
}

}  // namespace laplaced
