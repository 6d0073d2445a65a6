#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/model/architectures/families.h"

namespace laplaced {
namespace {

// Normalisation comes first; where the shape changes, the shortcut starts behind it.
Value Block(const Value& x, const std::string& name, int64_t stride, ForwardWriter& writer) {
  const int64_t channels = writer.Size(name + ".conv1.weight", 0);
  const std::string shortcut = name + ".convShortcut";
  const Value normalised = writer.Relu(writer.BatchNorm(x, name + ".bn1"));
  Value y = writer.Conv(normalised, name + ".conv1", {3, stride, 1});
  y = writer.Relu(writer.BatchNorm(y, name + ".bn2"));
  y = writer.Conv(y, name + ".conv2", {3, 1, 1, channels});
  const bool has_shortcut =
      stride != 1 || writer.Has(shortcut + ".weight") ||
      (channels != kAny && !x.shape.empty() && x.shape[0] != kAny && channels != x.shape[0]);
  return writer.Add(y,
                    has_shortcut ? writer.Conv(normalised, shortcut, {1, stride, 0, channels}) : x);
}

}  // namespace

Value WriteWideResnet(const Architecture& architecture, ForwardWriter& writer) {
  const std::vector<std::string> words = absl::StrSplit(architecture.name, '_');
  int64_t depth = 0;
  (void)absl::SimpleAtoi(words[2], &depth);  // wide_resnet_<depth>_<width>, of architecture.cc
  const int64_t blocks = (depth - 4) / 6;
  Value x = writer.Conv(writer.input(), "conv1", {3, 1, 1});
  for (int64_t stage = 1; stage <= 3; ++stage) {
    for (int64_t i = 0; i < blocks; ++i) {
      x = Block(x, absl::StrCat("block", stage, ".layer.", i), stage > 1 && i == 0 ? 2 : 1, writer);
    }
  }
  x = writer.Relu(writer.BatchNorm(x, "bn1"));
  return writer.Linear(writer.GlobalMean(x), "fc", writer.n_outputs());
}

}  // namespace laplaced
