#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/model/architectures/families.h"

namespace laplaced {
namespace {

// Every second pixel, and zeros for the channels that are new, half of them on either side.
Value PaddedShortcut(const Value& x, int64_t channels, int64_t stride, const std::string& block,
                     ForwardWriter& writer) {
  if (x.shape.size() != 3) return x;  // the first convolution said so
  Shape shape = x.shape;
  for (size_t side = 1; side < 3; ++side) {
    if (shape[side] != kAny) shape[side] = (shape[side] + stride - 1) / stride;
  }
  int64_t half = 0;
  if (channels != kAny && shape[0] != kAny) {
    const int64_t added = channels - shape[0];
    if (added < 0 || added % 2 != 0) {
      writer.Problem(absl::StrCat(block, ": shortcut A cannot lead from ", shape[0], " to ",
                                  channels, " channels, only to an even number more"));
      return x;
    }
    half = added / 2;
  }
  shape[0] = channels;
  const std::string step = absl::StrCat("::", stride);
  return writer.Emit(absl::StrCat("torch.constant_pad_nd(", x.name, "[:, :, ", step, ", ", step,
                                  "], [0, 0, 0, 0, ", half, ", ", half, "], 0.)"),
                     shape);
}

Value Block(const Value& x, const std::string& name, int64_t stride, const std::string& shortcut,
            ForwardWriter& writer) {
  const std::string conv1 = name + ".conv1", own = name + ".shortcut.0";
  const int64_t channels = writer.Size(conv1 + ".weight", 0);
  Value y = writer.Relu(writer.BatchNorm(writer.Conv(x, conv1, {3, stride, 1}), name + ".bn1"));
  y = writer.BatchNorm(writer.Conv(y, name + ".conv2", {3, 1, 1, channels}), name + ".bn2");
  const bool changes = stride != 1 || (channels != kAny && !x.shape.empty() && x.shape[0] != kAny &&
                                       channels != x.shape[0]);
  Value carried = x;
  if (changes && (shortcut == "B" || (shortcut.empty() && writer.Has(own + ".weight")))) {
    carried = writer.BatchNorm(writer.Conv(x, own, {1, stride, 0, channels}), name + ".shortcut.1");
  } else if (changes) {
    carried = PaddedShortcut(x, channels, stride, name, writer);
  }
  return writer.Relu(writer.Add(y, carried));
}

}  // namespace

Value WriteCifarResnet(const Architecture& architecture, ForwardWriter& writer) {
  int64_t depth = 0;
  absl::string_view digits = architecture.name;
  absl::ConsumePrefix(&digits, "resnet");
  (void)absl::SimpleAtoi(digits, &depth);  // a name of architecture.cc
  const int64_t blocks = (depth - 2) / 6;
  Value x = writer.Relu(writer.BatchNorm(writer.Conv(writer.input(), "conv1", {3, 1, 1}), "bn1"));
  for (int64_t stage = 1; stage <= 3; ++stage) {
    for (int64_t i = 0; i < blocks; ++i) {
      x = Block(x, absl::StrCat("layer", stage, ".", i), stage > 1 && i == 0 ? 2 : 1,
                architecture.shortcut, writer);
    }
  }
  return writer.Linear(writer.GlobalMean(x), "linear", writer.n_outputs());
}

}  // namespace laplaced
