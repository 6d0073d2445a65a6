#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/model/architectures/families.h"

namespace laplaced {
namespace {

// TensorFlow's "same": what a side needs beyond its size, the larger half at its end.
Value PadLikeTensorflow(const Value& x, int64_t kernel, int64_t stride, ForwardWriter& writer) {
  if (x.shape.size() != 3 || x.shape[1] == kAny || x.shape[2] == kAny) return x;
  Shape shape = x.shape;
  int64_t before[3] = {}, after[3] = {};
  for (size_t side = 1; side < 3; ++side) {
    const int64_t places = (shape[side] + stride - 1) / stride;
    const int64_t total = std::max<int64_t>((places - 1) * stride + kernel - shape[side], 0);
    before[side] = total / 2;
    after[side] = total - before[side];
    shape[side] += total;
  }
  return writer.Emit(absl::StrCat("torch.constant_pad_nd(", x.name, ", [", before[2], ", ",
                                  after[2], ", ", before[1], ", ", after[1], "], 0.)"),
                     shape);
}

}  // namespace

Value WriteAllCnnC(const Architecture& architecture, ForwardWriter& writer) {
  struct Layer {
    int64_t kernel, stride, padding;
  };
  constexpr Layer kLayers[] = {{3, 1, 1}, {3, 1, 1}, {3, 2, 1}, {3, 1, 1}, {3, 1, 1},
                               {3, 2, 1}, {3, 1, 0}, {1, 1, 0}, {1, 1, 0}};
  constexpr int64_t kCount = sizeof kLayers / sizeof kLayers[0];
  Value x = writer.input();
  for (int64_t i = 0; i < kCount; ++i) {
    ConvOptions options{kLayers[i].kernel, kLayers[i].stride, kLayers[i].padding};
    if (i + 1 == kCount) options.outputs = writer.n_outputs();
    if (options.stride == 2 && architecture.padding == "tensorflow") {
      x = PadLikeTensorflow(x, options.kernel, options.stride, writer);
      options.padding = 0;
    }
    x = writer.Relu(writer.Conv(x, absl::StrCat("conv", i + 1), options));
  }
  return writer.GlobalMean(x);
}

}  // namespace laplaced
