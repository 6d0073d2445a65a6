#include <string>

#include "absl/strings/str_cat.h"
#include "server/model/architectures/families.h"

namespace laplaced {
namespace {

struct Layout {
  const char* name;
  bool bottleneck;
  int64_t blocks[4];
};

constexpr Layout kLayouts[] = {
    {"resnet18", false, {2, 2, 2, 2}},  {"resnet34", false, {3, 4, 6, 3}},
    {"resnet50", true, {3, 4, 6, 3}},   {"resnet101", true, {3, 4, 23, 3}},
    {"resnet152", true, {3, 8, 36, 3}},
};

Value ConvNorm(const Value& x, const std::string& block, int64_t n, const ConvOptions& options,
               ForwardWriter& writer) {
  return writer.BatchNorm(writer.Conv(x, absl::StrCat(block, ".conv", n), options),
                          absl::StrCat(block, ".bn", n));
}

Value Block(const Value& x, const std::string& name, int64_t stride, bool bottleneck,
            ForwardWriter& writer) {
  const std::string downsample = name + ".downsample";
  Value y;
  if (bottleneck) {
    y = writer.Relu(ConvNorm(x, name, 1, {1, 1, 0}, writer));
    y = writer.Relu(ConvNorm(y, name, 2, {3, stride, 1}, writer));
    y = ConvNorm(y, name, 3, {1, 1, 0}, writer);
  } else {
    y = writer.Relu(ConvNorm(x, name, 1, {3, stride, 1}, writer));
    y = ConvNorm(y, name, 2, {3, 1, 1}, writer);
  }
  const int64_t channels = y.shape.empty() ? kAny : y.shape[0];
  const bool changes =
      stride != 1 || writer.Has(downsample + ".0.weight") ||
      (channels != kAny && !x.shape.empty() && x.shape[0] != kAny && channels != x.shape[0]);
  const Value carried =
      changes ? writer.BatchNorm(writer.Conv(x, downsample + ".0", {1, stride, 0, channels}),
                                 downsample + ".1")
              : x;
  return writer.Relu(writer.Add(y, carried));
}

}  // namespace

Value WriteResnet(const Architecture& architecture, ForwardWriter& writer) {
  const Layout* layout = &kLayouts[0];
  for (const Layout& known : kLayouts) {
    if (architecture.name == known.name) layout = &known;
  }
  Value x = writer.Relu(writer.BatchNorm(writer.Conv(writer.input(), "conv1", {7, 2, 3}), "bn1"));
  x = writer.Pool(x, "max", 3, 2, 1);
  for (int64_t stage = 1; stage <= 4; ++stage) {
    for (int64_t i = 0; i < layout->blocks[stage - 1]; ++i) {
      x = Block(x, absl::StrCat("layer", stage, ".", i), stage > 1 && i == 0 ? 2 : 1,
                layout->bottleneck, writer);
    }
  }
  return writer.Linear(writer.GlobalMean(x), "fc", writer.n_outputs());
}

}  // namespace laplaced
