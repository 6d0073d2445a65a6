#include "server/serving/example_blocks.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/curvature/jacobian_products.h"
#include "server/model/field_error.h"
#include "server/model/input_transform.h"
#include "server/model/torch_status.h"

namespace laplaced {
namespace {

int64_t NextPowerOfTwo(int64_t n) {
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}

int64_t PowerOfTwoUpTo(int64_t most) {
  const int64_t power = NextPowerOfTwo(most);
  return power > most ? power / 2 : power;
}

at::Tensor PadToPowerOfTwo(const at::Tensor& x) {
  const int64_t missing = NextPowerOfTwo(x.size(0)) - x.size(0);
  if (missing == 0) return x;
  std::vector<int64_t> shape = x.sizes().vec();
  shape[0] = missing;
  return at::cat({x, x.narrow(0, 0, 1).expand(shape)});
}

}  // namespace

int64_t JacobianBlock(const Network& network) {
  return JacobianBlock(network, network.n_outputs());
}

int64_t JacobianBlock(const Network& network, int64_t rows) {
  return PowerOfTwoUpTo(
      std::min(kForwardBlock, ExamplesPerStep(network) * network.n_outputs() / rows));
}

int64_t ForwardModeBlock(const Network& network, const CapturePlan& plan) {
  constexpr int64_t kBytes = int64_t{1} << 28, kCopies = 4;
  const auto element = static_cast<int64_t>(c10::elementSize(network.dtype()));
  const int64_t example = kCopies * element * std::max<int64_t>(1, plan.gradient_numel);
  return PowerOfTwoUpTo(std::clamp<int64_t>(kBytes / example, 1, kForwardBlock));
}

at::Tensor PaddedBlock(const LoadedModel& model, const at::Tensor& raw, int64_t begin,
                       int64_t count) {
  return PadToPowerOfTwo(
      ToNetworkInput(raw.narrow(0, begin, count), model.manifest, model.network.dtype()));
}

std::vector<at::Tensor> PaddedBlocks(const LoadedModel& model, const at::Tensor& raw,
                                     int64_t size) {
  std::vector<at::Tensor> blocks;
  for (int64_t begin = 0; begin < raw.size(0); begin += size) {
    blocks.push_back(PaddedBlock(model, raw, begin, std::min(size, raw.size(0) - begin)));
  }
  return blocks;
}

absl::Status CheckFinite(const at::Tensor& rows, int64_t begin) {
  const at::Tensor bad = rows.isfinite().all(1).logical_not();
  if (!bad.any().item<bool>()) return absl::OkStatus();
  return FieldError(
      "inputs",
      absl::StrCat("row ", begin + bad.nonzero()[0].item<int64_t>(),
                   " makes the network's outputs or their derivatives overflow: values are too "
                   "large for the precision that the network computes in"));
}

at::Tensor ForwardBlock(const LoadedModel& model, const at::Tensor& raw, int64_t begin,
                        int64_t count) {
  return model.network.Forward(PaddedBlock(model, raw, begin, count))
      .narrow(0, 0, count)
      .to(at::kDouble);
}

absl::StatusOr<Linearized> LinearizeBlock(const LoadedModel& model,
                                          const LoadedPosterior& posterior,
                                          LinearizeRequest request, const at::Tensor& raw,
                                          int64_t begin, int64_t count) {
  const at::Tensor x = PaddedBlock(model, raw, begin, count);
  if (request.outputs.defined()) request.outputs = PadToPowerOfTwo(request.outputs);
  LAPLACED_ASSIGN_OR_RETURN(
      Linearized block, posterior.value.structure->Linearize(
                            posterior.uncertain.network, posterior.uncertain.capture, x, request));
  block.f = block.f.narrow(0, 0, count);
  at::Tensor sum = block.f.sum(1, true);
  // A gradient that overflows shows up in every variance.
  for (at::Tensor& v : block.variance) sum = sum + (v = v.narrow(0, 0, count)).sum(1, true);
  for (at::Tensor& v : block.covariance) {
    v = v.narrow(0, 0, count);
    sum = sum + v.diagonal(0, 1, 2).sum(1, true);
  }
  if (block.outside.defined()) {
    block.outside = block.outside.narrow(0, 0, count);
    sum = sum + block.outside.unsqueeze(1);
  }
  LAPLACED_RETURN_IF_ERROR(CheckFinite(sum, begin));
  return block;
}

}  // namespace laplaced
