#include "formats/torch_globals.h"

namespace laplaced {
namespace {

struct NamedGlobal {
  absl::string_view name;
  TorchGlobal global;
};

constexpr NamedGlobal kGlobals[] = {
    {"collections.OrderedDict", TorchGlobal::kOrderedDict},
    {"torch._utils._rebuild_tensor", TorchGlobal::kRebuildTensor},  // before 0.4
    {"torch._utils._rebuild_tensor_v2", TorchGlobal::kRebuildTensor},
    {"torch._utils._rebuild_parameter", TorchGlobal::kRebuildParameter},
    {"collections.Counter", TorchGlobal::kOpaque},
    {"torch.Size", TorchGlobal::kOpaque},
    {"torch.device", TorchGlobal::kOpaque},
    {"argparse.Namespace", TorchGlobal::kOpaque},
    {"numpy.core.multiarray.scalar", TorchGlobal::kOpaque},
    {"numpy._core.multiarray.scalar", TorchGlobal::kOpaque},
    {"numpy.dtype", TorchGlobal::kOpaque},
    {"_codecs.encode", TorchGlobal::kOpaque},  // bytes, in pickles of protocol 2
};

struct NamedStorage {
  absl::string_view name;
  StoredElement element;
};

constexpr NamedStorage kStorages[] = {
    {"torch.DoubleStorage", StoredElement::kFloat64},
    {"torch.FloatStorage", StoredElement::kFloat32},
    {"torch.HalfStorage", StoredElement::kFloat16},
    {"torch.BFloat16Storage", StoredElement::kBFloat16},
    {"torch.LongStorage", StoredElement::kInt64},
    {"torch.IntStorage", StoredElement::kInt32},
    {"torch.ShortStorage", StoredElement::kInt16},
    {"torch.CharStorage", StoredElement::kInt8},
    {"torch.ByteStorage", StoredElement::kUint8},
    {"torch.BoolStorage", StoredElement::kBool},
    // Of tensors that were on a GPU, in files older than 0.4.
    {"torch.cuda.DoubleStorage", StoredElement::kFloat64},
    {"torch.cuda.FloatStorage", StoredElement::kFloat32},
    {"torch.cuda.HalfStorage", StoredElement::kFloat16},
    {"torch.cuda.LongStorage", StoredElement::kInt64},
    {"torch.cuda.IntStorage", StoredElement::kInt32},
    {"torch.cuda.ByteStorage", StoredElement::kUint8},
};

}  // namespace

absl::optional<TorchGlobal> FindTorchGlobal(absl::string_view name) {
  for (const NamedGlobal& known : kGlobals) {
    if (known.name == name) return known.global;
  }
  if (ElementOfStorage(name)) return TorchGlobal::kStorage;
  return absl::nullopt;
}

absl::optional<StoredElement> ElementOfStorage(absl::string_view name) {
  for (const NamedStorage& known : kStorages) {
    if (known.name == name) return known.element;
  }
  return absl::nullopt;
}

}  // namespace laplaced
