#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/model/architectures/families.h"

namespace laplaced {
namespace {

constexpr double kEpsilon = 1e-6;
constexpr int64_t kHeadWidth = 64;
constexpr int64_t kLittleBlocks = 14;

struct Sizes {
  int64_t width = kAny;
  int64_t tokens = kAny;
  int64_t heads = 1;
};

// [N, W] from [W, H, W'].
Value Patches(ForwardWriter& writer) {
  const std::string layer = "patch_embed.proj";
  const int64_t patch = writer.Size(layer + ".weight", 2);
  ConvOptions options;
  options.kernel = patch;
  options.stride = patch == kAny || patch < 1 ? 1 : patch;
  const Value grid = writer.Conv(writer.input(), layer, options);
  const Shape& s = grid.shape;
  for (size_t side = 1; side < 3; ++side) {
    if (s[side] != kAny && s[side] * patch != writer.input().shape[side]) {
      writer.Problem(absl::StrCat("inputs of shape ", ShapeString(writer.input().shape),
                                  " are no whole number of patches of ", patch, " x ", patch));
      break;
    }
  }
  const int64_t tokens = s[1] == kAny || s[2] == kAny ? kAny : s[1] * s[2];
  return writer.Emit(absl::StrCat("torch.transpose(torch.flatten(", grid.name, ", 2), 1, 2)"),
                     {tokens, s[0]});
}

// The extra tokens that the file has stand before the patches.
Value WithPositions(const Value& patches, ForwardWriter& writer, int64_t* extra) {
  const int64_t width = patches.shape[1];
  *extra = 0;
  std::string joined;
  for (const char* name : {"cls_token", "reg_token"}) {
    if (!writer.Has(name)) continue;
    *extra += writer.Size(name, 1) == kAny ? 0 : writer.Size(name, 1);
    const Value token =
        writer.Emit(absl::StrCat(writer.Tensor(name, {1, kAny, width}), ".expand([torch.size(",
                                 patches.name, ", 0), -1, -1])"),
                    {writer.Size(name, 1), width});
    absl::StrAppend(&joined, token.name, ", ");
  }
  const int64_t tokens = patches.shape[0], all = tokens == kAny ? kAny : tokens + *extra;
  const int64_t positions = writer.Size("pos_embed", 1);
  const bool before = positions != kAny && positions == tokens;
  const std::string pos = writer.Tensor("pos_embed", {1, before ? tokens : all, width});
  Value x = patches;
  if (before) x = writer.Emit(absl::StrCat(x.name, " + ", pos), x.shape);
  if (!joined.empty()) {
    x = writer.Emit(absl::StrCat("torch.cat([", joined, x.name, "], 1)"), {all, width});
  }
  if (!before) x = writer.Emit(absl::StrCat(x.name, " + ", pos), x.shape);
  return x;
}

Value Attention(const Value& x, const std::string& name, const Sizes& sizes,
                ForwardWriter& writer) {
  const int64_t width = sizes.width, head = width / sizes.heads;
  const Value qkv = writer.Linear(x, name + ".qkv", width == kAny ? kAny : 3 * width);
  const Value split =
      writer.Emit(absl::StrCat("torch.permute(torch.reshape(", qkv.name, ", [-1, ", sizes.tokens,
                               ", 3, ", sizes.heads, ", ", head, "]), [2, 0, 3, 1, 4])"),
                  {});
  const auto part = [&](int i) {
    return absl::StrCat("torch.select(", split.name, ", 0, ", i, ")");
  };
  const Value weights =
      writer.Emit(absl::StrCat("torch.softmax(torch.matmul(", part(0), " * ",
                               absl::StrFormat("%.17g", 1 / std::sqrt(static_cast<double>(head))),
                               ", torch.transpose(", part(1), ", -2, -1)), -1)"),
                  {});
  const Value mixed =
      writer.Emit(absl::StrCat("torch.reshape(torch.transpose(torch.matmul(", weights.name, ", ",
                               part(2), "), 1, 2), [-1, ", sizes.tokens, ", ", width, "])"),
                  x.shape);
  return writer.Linear(mixed, name + ".proj", width);
}

Value Scaled(const Value& x, const std::string& name, ForwardWriter& writer) {
  if (!writer.Has(name)) return x;
  const std::string gamma = writer.Tensor(name, {x.shape.back()});
  return writer.Emit(absl::StrCat(x.name, " * ", gamma), x.shape);
}

Value Block(Value x, const std::string& name, const Sizes& sizes, ForwardWriter& writer) {
  Value y = writer.LayerNorm(x, name + ".norm1", kEpsilon);
  y = Attention(y, name + ".attn", sizes, writer);
  x = writer.Add(x, Scaled(y, name + ".ls1.gamma", writer));
  y = writer.LayerNorm(x, name + ".norm2", kEpsilon);
  y = writer.Activate(writer.Linear(y, name + ".mlp.fc1"), "gelu");
  y = writer.Linear(y, name + ".mlp.fc2", sizes.width);
  return writer.Add(x, Scaled(y, name + ".ls2.gamma", writer));
}

}  // namespace

Value WriteVit(const Architecture& architecture, ForwardWriter& writer) {
  if (writer.input().shape.size() != 3) {
    return writer.Stop(absl::StrCat("needs inputs of shape [channels, height, width], got ",
                                    ShapeString(writer.input().shape)));
  }
  const Value patches = Patches(writer);
  int64_t extra = 0;
  Value x = WithPositions(patches, writer, &extra);
  Sizes sizes{patches.shape[1], x.shape[0], architecture.heads};
  if (sizes.heads == 0) sizes.heads = sizes.width == kAny ? 1 : sizes.width / kHeadWidth;
  const bool divides = sizes.heads > 0 && sizes.width % sizes.heads == 0 &&
                       (architecture.heads > 0 || sizes.width % kHeadWidth == 0);
  if (sizes.width != kAny && !divides) {
    return writer.Stop(absl::StrCat("a width of ", sizes.width, " is not made of heads of ",
                                    architecture.heads > 0 ? "equal width" : "width 64",
                                    ": state architecture.heads, a number that divides it"));
  }
  const auto has = [&](const std::string& layer) { return writer.Has(layer + ".weight"); };
  if (has("norm_pre")) x = writer.LayerNorm(x, "norm_pre", kEpsilon);
  int64_t blocks = 0;
  while (has(absl::StrCat("blocks.", blocks, ".norm1"))) ++blocks;
  if (architecture.name == "vit_little") blocks = kLittleBlocks;
  for (int64_t i = 0; i < blocks; ++i) x = Block(x, absl::StrCat("blocks.", i), sizes, writer);
  const bool after = has("fc_norm"), with_class = writer.Has("cls_token");
  if (has("norm") || !after) x = writer.LayerNorm(x, "norm", kEpsilon);
  std::string pool = architecture.pool;
  if (pool.empty()) pool = after || !with_class ? "avg" : "token";
  if (pool == "token" && !with_class) {
    writer.Problem("architecture.pool: \"token\" needs the tensor cls_token");
  }
  const std::string pooled = pool == "token"
                                 ? absl::StrCat("torch.select(", x.name, ", 1, 0)")
                                 : absl::StrCat("torch.mean(", x.name, "[:, ", extra, ":], [1])");
  x = writer.Emit(pooled, {sizes.width});
  if (after) x = writer.LayerNorm(x, "fc_norm", kEpsilon);
  return writer.Linear(x, "head", writer.n_outputs());
}

}  // namespace laplaced
