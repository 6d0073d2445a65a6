// Scale and shift of batch norm (in evaluation), layer norm and group norm.
#include <torch/csrc/autograd/generated/Functions.h>

#include <utility>

#include "server/model/captured_kinds.h"

namespace laplaced {
namespace {

namespace generated = torch::autograd::generated;

// The use of a norm's scale (edge 1) or shift (edge 2), of `shape` in an example's part of the
// output; `normalise` makes the tensor that the scale multiplies.
template <typename Normalise>
CapturedUse NormUse(const UseSite& site, const at::Tensor& input, BatchLayout layout,
                    std::vector<int64_t> shape, const Normalise& normalise) {
  const int64_t examples = site.examples;
  if (!HoldsExamples(input.sizes(), examples, layout)) return {};
  if (site.edge == 2) return {MakeTermUse(std::move(shape)), layout, 0};
  if (site.edge != 1) return {};
  const double macs = static_cast<double>(input.numel() / examples);
  return {MakeScaleUse(std::move(shape), SavedByExample(site, normalise(), layout)), layout, macs};
}

}  // namespace

CapturedUse BatchNormUse(const UseSite& site) {
  auto* node = static_cast<generated::NativeBatchNormBackward0*>(site.node.get());
  const at::Tensor input = node->input_.unpack();
  const at::Tensor mean = node->running_mean_.unpack(), variance = node->running_var_.unpack();
  if (node->training || !mean.defined() || !variance.defined()) return {};
  return NormUse(
      site, input, LayoutOf(site.order, 1), ChannelShape(input.size(1), input.dim()), [&] {
        std::vector<int64_t> per_channel(static_cast<size_t>(input.dim()), 1);
        per_channel[1] = input.size(1);
        return (input - mean.view(per_channel)) * (variance + node->eps).rsqrt().view(per_channel);
      });
}

CapturedUse LayerNormUse(const UseSite& site) {
  auto* node = static_cast<generated::NativeLayerNormBackward0*>(site.node.get());
  const at::Tensor input = node->input_.unpack();
  const auto normalised_dims = static_cast<int64_t>(node->normalized_shape.size());
  const int64_t leading = input.dim() - normalised_dims;
  if (leading < 1) return {};
  return NormUse(
      site, input, LayoutOf(site.order, leading), input.sizes().slice(leading).vec(), [&] {
        return (input - node->result1_.unpack(site.node)) * node->result2_.unpack(site.node);
      });
}

CapturedUse GroupNormUse(const UseSite& site) {
  auto* node = static_cast<generated::NativeGroupNormBackward0*>(site.node.get());
  const at::Tensor input = node->input_.unpack();
  return NormUse(site, input, LayoutOf(site.order, 1), ChannelShape(input.size(1), input.dim()),
                 [&] {
                   const at::Tensor mean = node->result1_.unpack(site.node).unsqueeze(2);
                   const at::Tensor rstd = node->result2_.unpack(site.node).unsqueeze(2);
                   const at::Tensor groups = input.reshape({input.size(0), node->group, -1});
                   return ((groups - mean) * rstd).view(input.sizes());
                 });
}

}  // namespace laplaced
