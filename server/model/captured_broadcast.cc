// Parameters that meet the batch by broadcasting: sums, products, explicit expansion.
#include <ATen/ExpandUtils.h>
#include <torch/csrc/autograd/generated/Functions.h>
#include <torch/version.h>

#include <algorithm>
#include <utility>

#include "server/model/captured_kinds.h"
#include "server/model/channel_gradients.h"
#include "server/model/parameter_view.h"

namespace laplaced {
namespace {

namespace generated = torch::autograd::generated;

// Whether a parameter of `shape` has one number for each channel, the first dimension of an
// example's part.
bool IsPerChannel(const std::vector<int64_t>& shape, const at::Tensor& grads) {
  return static_cast<int64_t>(shape.size()) == grads.dim() - 2 && shape[0] == grads.size(2) &&
         std::all_of(shape.begin() + 1, shape.end(), [](int64_t size) { return size == 1; });
}

// Sums [b, R, dims...] over the dimensions in which `shape` is broadcast: [b, R, numel].
at::Tensor SumOver(const at::Tensor& t, const std::vector<int64_t>& shape) {
  if (IsPerChannel(shape, t)) return SumOverPlaces(t);
  std::vector<int64_t> target(static_cast<size_t>(t.dim()) - shape.size(), 1);
  target.insert(target.end(), shape.begin(), shape.end());
  target[0] = t.size(0);
  target[1] = t.size(1);
  return at::sum_to(t, target).reshape({t.size(0), t.size(1), -1});
}

class Term : public ParameterUse {
 public:
  Term(std::vector<int64_t> shape, double factor) : shape_(std::move(shape)), factor_(factor) {}
  at::Tensor Jacobian(const at::Tensor& grads, int64_t, int64_t) const override {
    const at::Tensor sum = SumOver(grads, shape_);
    return factor_ == 1 ? sum : sum * factor_;
  }

 private:
  const std::vector<int64_t> shape_;
  const double factor_;
};

class Scale : public ParameterUse {
 public:
  Scale(std::vector<int64_t> shape, at::Tensor other)
      : shape_(std::move(shape)), other_(std::move(other)) {}
  at::Tensor Jacobian(const at::Tensor& grads, int64_t begin, int64_t count) const override {
    const at::Tensor other = other_.narrow(0, begin, count);
    if (IsPerChannel(shape_, grads) && other.sizes() == grads.select(1, 0).sizes()) {
      return SumOverPlaces(grads, other);
    }
    return SumOver(grads * other.unsqueeze(1), shape_);
  }

 private:
  const std::vector<int64_t> shape_;
  const at::Tensor other_;
};

// Elements of one example in an output of these sizes.
double NumelPerExample(const UseSite& site, at::IntArrayRef sizes) {
  return static_cast<double>(c10::multiply_integers(sizes) / site.examples);
}

BatchLayout LayoutOfOutput(const UseSite& site, size_t dims) {
  return LayoutOf(site.order, static_cast<int64_t>(dims) - 1);
}

CapturedUse TermUse(const UseSite& site, double factor) {
  const std::vector<int64_t> sizes = ResultShape(*site.node);
  const BatchLayout layout = LayoutOfOutput(site, sizes.size());
  if (!HoldsExamples(sizes, site.examples, layout)) return {};
  const auto shape = ShapeInExample(site.shape, static_cast<int64_t>(sizes.size()), layout);
  if (!shape) return {};
  return {MakeTermUse(*shape, factor), layout, 0};
}

}  // namespace

absl::optional<std::vector<int64_t>> ShapeInExample(const std::vector<int64_t>& shape, int64_t dims,
                                                    BatchLayout layout) {
  const int64_t batch_dim = layout == BatchLayout::kSecond ? 1 : 0;
  const int64_t at = batch_dim - (dims - static_cast<int64_t>(shape.size()));
  if (at < 0) return shape;
  std::vector<int64_t> rest = shape;
  if (rest[static_cast<size_t>(at)] != 1) return absl::nullopt;
  rest.erase(rest.begin() + at);
  return rest;
}

std::vector<int64_t> ChannelShape(int64_t channels, int64_t dims) {
  std::vector<int64_t> shape(static_cast<size_t>(dims) - 1, 1);
  shape[0] = channels;
  return shape;
}

std::shared_ptr<ParameterUse> MakeTermUse(std::vector<int64_t> shape, double factor) {
  return std::make_shared<Term>(std::move(shape), factor);
}

std::shared_ptr<ParameterUse> MakeScaleUse(std::vector<int64_t> shape, at::Tensor other) {
  return std::make_shared<Scale>(std::move(shape), std::move(other));
}

CapturedUse MulUse(const UseSite& site) {
  auto* node = static_cast<generated::MulBackward0*>(site.node.get());
  at::Tensor other = (site.edge == 0 ? node->other_ : node->self_).unpack();
  if (!other.defined()) return {};
  other = other.expand(at::infer_size(other.sizes(), site.shape));
  CapturedUse made;
  made.layout = LayoutOfOutput(site, other.sizes().size());
  const auto shape = ShapeInExample(site.shape, other.dim(), made.layout);
  const at::Tensor by_example = SavedByExample(site, other, made.layout);
  if (!shape || !by_example.defined()) return {};
  made.use = MakeScaleUse(*shape, by_example);
  made.macs = NumelPerExample(site, other.sizes());
  return made;
}

CapturedUse AddUse(const UseSite& site) {
  const auto* node = static_cast<generated::AddBackward0*>(site.node.get());
  return TermUse(site, site.edge == 0 ? 1 : node->alpha.toDouble());
}

CapturedUse SubUse(const UseSite& site) {
  const auto* node = static_cast<generated::SubBackward0*>(site.node.get());
  return TermUse(site, site.edge == 0 ? 1 : -node->alpha.toDouble());
}

CapturedUse PreluUse(const UseSite& site) {
#if TORCH_VERSION_MAJOR >= 2
  auto* node = static_cast<generated::PreluKernelBackward0*>(site.node.get());
#else
  auto* node = static_cast<generated::PreluBackward0*>(site.node.get());
#endif
  const at::Tensor input = node->self_.unpack();
  if (site.edge != 1 || input.dim() < 2) return {};
  // The slopes of the channels: [channels] in 1.13; in 2.x, of the input's dimensions already.
  const int64_t channels = c10::multiply_integers(site.shape);
  const bool by_channel =
      site.shape.size() == 1 ||
      (site.shape.size() == static_cast<size_t>(input.dim()) && site.shape[1] == channels);
  if (!by_channel) return {};
  CapturedUse made;
  made.layout = LayoutOf(site.order, 1);
  const at::Tensor by_example = SavedByExample(site, input.clamp_max(0), made.layout);
  if (!by_example.defined()) return {};
  made.use = MakeScaleUse(ChannelShape(channels, input.dim()), by_example);
  made.macs = NumelPerExample(site, input.sizes());
  return made;
}

CapturedUse ExpandUse(const UseSite& site) { return TermUse(site, 1); }

// Repeated along the first dimension only, once for every example: the example's part of the result
// is the parameter.
CapturedUse RepeatUse(const UseSite& site) {
  const auto* node = static_cast<generated::RepeatBackward0*>(site.node.get());
  const auto once = [](const auto& count) { return count == 1; };
  if (site.order != ExampleOrder::kMajor || site.shape.empty() ||
      node->repeats.size() != site.shape.size() || !(node->repeats[0] == site.examples) ||
      !std::all_of(node->repeats.begin() + 1, node->repeats.end(), once))
    return {};
  std::vector<int64_t> shape = site.shape;
  if (shape[0] == 1) shape.erase(shape.begin());
  return {MakeTermUse(shape), BatchLayout::kMajor, 0};
}

}  // namespace laplaced
