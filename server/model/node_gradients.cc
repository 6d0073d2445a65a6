#include "server/model/node_gradients.h"

#include <algorithm>
#include <utility>

namespace laplaced {
namespace {

// [groups * rows, rest...] -> [groups, rest...] if rows is 1, else [groups, rows, rest...].
at::Tensor GroupRows(const at::Tensor& t, int64_t groups) {
  if (t.size(0) == groups) return t;
  std::vector<int64_t> shape = t.sizes().vec();
  shape[0] /= groups;
  shape.insert(shape.begin(), groups);
  return t.reshape(shape);
}

}  // namespace

NodeGradients::NodeGradients(std::vector<at::Tensor> per_output, int64_t batch) {
  const auto present = std::find_if(per_output.begin(), per_output.end(),
                                    [](const at::Tensor& t) { return t.defined(); });
  if (present == per_output.end()) return;
  const at::Tensor zero = at::zeros_like(*present);
  for (const at::Tensor& t : per_output)
    per_output_.push_back(GroupRows(t.defined() ? t : zero, batch));
}

NodeGradients::NodeGradients(const at::Tensor& interleaved, int64_t batch, int64_t outputs) {
  if (!interleaved.defined()) return;
  const at::Tensor grouped = GroupRows(interleaved, batch * outputs);
  std::vector<int64_t> shape = grouped.sizes().vec();
  shape[0] = outputs;
  shape.insert(shape.begin(), batch);
  interleaved_ = grouped.reshape(shape);
}

at::Tensor NodeGradients::Tile(int64_t begin, int64_t count) const {
  if (interleaved_.defined()) return interleaved_.narrow(0, begin, count);
  std::vector<at::Tensor> slices;
  slices.reserve(per_output_.size());
  for (const at::Tensor& t : per_output_) slices.push_back(t.narrow(0, begin, count));
  return at::stack(slices, 1);
}

}  // namespace laplaced
